"""Generated data sets with exact masks, in the layouts of COCO, Cityscapes and ImageNet.

Nothing here imports torch or Detectron2.

=================== ==================================================================
``coco/``           things and persons with keypoints: ``python -m mask_rcnn_embedded.coco``
``cityscapes/``     streets: ``python -m mask_rcnn_embedded.cityscapes``
``crops/``          crops for pre-training: ``python -m mask_rcnn_embedded.crops``
``quickstart/``     small pictures: ``python -m mask_rcnn_embedded.quickstart``
``drawing/``        textures, shaded shapes, persons and the camera, used by all data sets
``spec.py``         base class of the descriptions of a data set
``data_set.py``     base class of the data sets: writes, caches and shows them
``cache.py``        keeps one finished copy of each data set
``sheet.py``        contact sheets
``stats.py``        tables of counts and sizes
``command_line.py`` the command line of all data sets
``errors.py``       errors that a user can fix
=================== ==================================================================
"""
