"""Figures, overlays and HTML reports from the files of run folders; nothing here imports torch."""

from aib.report.html import build_report
from aib.report.overlay import overlay_figure, save_overlay
from aib.report.read import GalleryItem, RunRecord, read_run

__all__ = ["GalleryItem", "RunRecord", "build_report", "overlay_figure", "read_run", "save_overlay"]
