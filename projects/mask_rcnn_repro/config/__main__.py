"""`python -m mask_rcnn_repro.config` prints every key of the `train` section."""

from mask_rcnn_repro.config.schema import format_schema

if __name__ == "__main__":
    print(format_schema(), end="")
