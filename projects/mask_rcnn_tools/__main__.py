"""`python -m mask_rcnn_tools` is the command `mask-rcnn-repro`."""

from mask_rcnn_tools.command import main

if __name__ == "__main__":
    main()
