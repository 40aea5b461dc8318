"""Result records: what leaves a run, and where it comes from."""

from mask_rcnn_repro.records.record import Record, load_record, make_record, save_record

__all__ = ["Record", "load_record", "make_record", "save_record"]
