"""Export of a trained detector to one file: torch.export, TorchScript or ONNX.

| module | content |
|---|---|
| graph, boxes, keypoint_decoding | the detector as a function of one image, in tensors |
| formats, metadata | writing and opening files, and their metadata |
| compare, images | comparison of a file with the model |
| support | what can be exported |
| run | the whole export |
| cli, main | `tools/export.py` |
"""
