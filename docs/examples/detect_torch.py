"""Detects objects in a picture: detect_torch.py MODEL PICTURE

Needs torch, torchvision and OpenCV; MODEL (.pt2 or .ts) is of tools/export.py. These files hold
code: use only files that you trust.
"""

import json
import sys

import cv2
import numpy as np
import torch
import torchvision  # noqa: F401  (brings the operators roi_align and nms)

model, source = sys.argv[1:]
extra = {"metadata.json": ""}
if model.endswith(".pt2"):
    detect = torch.export.load(model, extra_files=extra).module()
else:
    detect = torch.jit.load(model, map_location="cpu", _extra_files=extra)
about = json.loads(extra["metadata.json"])
picture = cv2.imread(source)  # (height, width, 3), BGR
height, width = picture.shape[:2]

scale, short, long = 1.0, about["input"]["shortest_edge"], about["input"]["longest_edge"]
if short:
    scale = min(short / min(height, width), (long or np.inf) / max(height, width))
size = round(width * scale), round(height * scale)
image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
image = image if about["input"]["channels"] == "BGR" else image[:, :, ::-1]
with torch.no_grad():
    outputs = detect(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
found = dict(zip(about["outputs"], outputs, strict=True))

back = torch.tensor([width / size[0], height / size[1]] * 2)  # to the picture's pixels
for row, box in enumerate(found["boxes"] * back):
    score, number = found["scores"][row], found["classes"][row]
    print(about["class_names"][number], f"{score:.4f}", *(f"{side:.2f}" for side in box))
