"""A recipe followed by its report: what the commands and the front door run."""

from pathlib import Path

from videomae2.engine import parallel
from videomae2.recipes.evaluate import Evaluation, run_evaluation
from videomae2.recipes.tasks import run_task
from videomae2.report.evaluation import write_evaluation_report
from videomae2.report.training import write_run_report
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings


def pretrain(settings: PretrainSettings) -> Path:
    """Pre-train, write report.html; the run's folder comes back. The same settings go on with an interrupted
    run.
    """
    return _reported(run_task(settings))


def finetune(settings: FinetuneSettings) -> Path:
    """Fine-tune, write report.html; the run's folder comes back. The same settings go on with an interrupted
    run.
    """
    return _reported(run_task(settings))


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Evaluate; with `settings.out`, write scores, tables and report.html there."""
    evaluation = run_evaluation(settings)
    if settings.out and parallel.is_main():
        write_evaluation_report(evaluation, settings.out)
    return evaluation


def _reported(folder: Path) -> Path:
    if parallel.is_main():
        write_run_report(folder)
    return folder
