"""``python -m mask_rcnn_embedded.crops``: make, measure and show the data set."""

import sys

from mask_rcnn_embedded.command_line import main
from mask_rcnn_embedded.crops import DATA_SET

if __name__ == "__main__":
    sys.exit(main(DATA_SET))
