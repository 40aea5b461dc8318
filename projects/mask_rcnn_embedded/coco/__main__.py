"""``python -m mask_rcnn_embedded.coco``: make, measure and show the data set."""

import sys

from mask_rcnn_embedded.coco import DATA_SET
from mask_rcnn_embedded.command_line import main

if __name__ == "__main__":
    sys.exit(main(DATA_SET))
