"""Detects objects in a picture: detect_onnx.py MODEL.onnx PICTURE RESULT.png

Needs onnxruntime, NumPy and OpenCV; MODEL.onnx is of tools/export.py (without --paste-masks).
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

model, source, result = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
picture = cv2.imread(source)  # (height, width, 3), BGR
height, width = picture.shape[:2]

scale, short, long = 1.0, about["input"]["shortest_edge"], about["input"]["longest_edge"]
if short:
    scale = min(short / min(height, width), (long or np.inf) / max(height, width))
size = round(width * scale), round(height * scale)
image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
image = image if about["input"]["channels"] == "BGR" else image[:, :, ::-1]
outputs = session.run(None, {"image": np.ascontiguousarray(image.transpose(2, 0, 1))})
found = dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))

back = np.array([width / size[0], height / size[1]], np.float32)  # to the picture's pixels
for i, box in enumerate(found["boxes"] * np.tile(back, 2)):
    name, score = about["class_names"][found["classes"][i]], found["scores"][i]
    print(name, f"{score:.4f}", *(f"{side:.2f}" for side in box))
    if score < 0.5:
        continue
    hue = np.uint8([[[i * 47 % 180, 220, 255]]])
    color = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    x1, y1, x2, y2 = box
    if "masks" in found:  # probabilities inside the box, read at the middles of the pixels
        mask = found["masks"][i]
        x = (np.arange(width, dtype=np.float32) + 0.5 - x1) / (x2 - x1) * mask.shape[1] - 0.5
        y = (np.arange(height, dtype=np.float32) + 0.5 - y1) / (y2 - y1) * mask.shape[0] - 0.5
        inside = cv2.remap(mask, *np.meshgrid(x, y), cv2.INTER_LINEAR, borderValue=0) >= 0.5
        picture[inside] = (0.5 * picture[inside] + 0.5 * np.array(color)).astype(np.uint8)
    cv2.rectangle(picture, (int(x1), int(y1)), (int(x2), int(y2)), color, 2)
    cv2.putText(picture, f"{name} {score:.2f}", (int(x1), int(y1) + 14), 0, 0.5, color, 1)
    for px, py, _ in found["keypoints"][i] if "keypoints" in found else ():
        cv2.circle(picture, (int(px * back[0]), int(py * back[1])), 2, color, -1)
cv2.imwrite(result, picture)
