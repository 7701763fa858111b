"""An evaluation, or a training run, as one HTML file that shows itself anywhere: no network, no script, no other file.

`evaluation` (with `pairs`) and `training` collect what a page says; `templates/` holds how it says it.
"""

from cosent.evaluation.report.evaluation import evaluation_report
from cosent.evaluation.report.page import NO_PICTURES, Report
from cosent.evaluation.report.plots import can_draw
from cosent.evaluation.report.training import training_report

__all__ = ["NO_PICTURES", "Report", "can_draw", "evaluation_report", "training_report"]
