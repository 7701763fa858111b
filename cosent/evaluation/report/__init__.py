"""Reports of an evaluation or a training run, as self-contained HTML: no network, no scripts, no other files.

`evaluation` (with `pairs`) and `training` collect the content of a page; `templates/` holds its layout.
"""

from cosent.evaluation.report.evaluation import evaluation_report, report
from cosent.evaluation.report.page import NO_PICTURES, Report
from cosent.evaluation.report.plots import can_draw
from cosent.evaluation.report.training import TrainingRun, training_report

__all__ = ["NO_PICTURES", "Report", "TrainingRun", "can_draw", "evaluation_report", "report", "training_report"]
