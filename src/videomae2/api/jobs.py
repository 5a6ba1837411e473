"""A recipe followed by its report: what the commands and the front door run."""

from pathlib import Path

from videomae2.engine import parallel as distributed
from videomae2.recipes.evaluate import Evaluation, run_evaluation
from videomae2.recipes.finetune import run_finetuning
from videomae2.recipes.pretrain import run_pretraining
from videomae2.report.evaluation import write_evaluation_report
from videomae2.report.training import write_run_report
from videomae2.settings import EvaluateSettings, FinetuneSettings, PretrainSettings


def pretrain(settings: PretrainSettings) -> Path:
    """Pre-train, write report.html; the run's folder comes back. The same settings go on with an interrupted
    run.
    """
    return _reported(run_pretraining(settings))


def finetune(settings: FinetuneSettings) -> Path:
    """Fine-tune, write report.html; the run's folder comes back. The same settings go on with an interrupted
    run.
    """
    return _reported(run_finetuning(settings))


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Evaluate; with `settings.out`, write scores, tables and report.html there."""
    evaluation = run_evaluation(settings)
    if settings.out and distributed.is_main():
        write_evaluation_report(evaluation, settings.out)
    return evaluation


def _reported(folder: Path) -> Path:
    if distributed.is_main():
        write_run_report(folder)
    return folder
