"""Bad input, through the real command line: one clear line, exit code 2, and nothing half-written."""

import os
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.cli import main as cli
from videomae2.config import load_settings
from videomae2.data.sprites.draw import encode_mp4
from videomae2.settings import FinetuneSettings, PretrainSettings

TINY = shlex.split(
    "--model.name vit_ti16 --model.depth 1 --model.width 48 --model.num_heads 3 --model.num_frames 8 "
    "--model.size 32 "
    "--model.native_frames 8 --model.native_size 32 --data.workers 0 --data.stride 1 "
    "--optim.batch_size 2 --optim.length 2 --optim.warmup 0 --run.device cpu --run.precision fp32 "
    "--run.no_tensorboard"
)
TINY_PRETRAIN = [
    *TINY,
    "--model.decoder_depth",
    "1",
    "--model.decoder_width",
    "24",
    "--data.repeated_views",
    "1",
]
Fails = Callable[..., str]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small videos of two classes, and manifests with one thing wrong in each."""
    folder = tmp_path_factory.mktemp("videos")
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        frames = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
        (folder / f"{number}.mp4").write_bytes(encode_mp4(frames, 8))
        (folder / f"broken{number}.mp4").write_text("this is no video")
    rows = [f"{number}.mp4,{number % 2}" for number in range(4)]
    manifests = {
        "good.csv": ["path,label", *rows],
        "empty.csv": ["path,label"],
        "empty.txt": [],
        "far_label.csv": ["path,label", *rows, "0.mp4,7"],
        "negative_label.csv": ["path,label", *rows, "0.mp4,-3"],
        "unlabelled.csv": ["path", *[row.partition(",")[0] for row in rows]],
        "no_path.csv": ["file,label", *rows],
        "broken.csv": ["path,label", *[f"broken{number}.mp4,{number % 2}" for number in range(4)]],
        "absent.csv": ["path,label", *[f"absent{number}.mp4,{number % 2}" for number in range(4)]],
    }
    for name, lines in manifests.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fails:
    """Run a command that must fail as a user's mistake and change no file; its one line comes back."""

    def command(*tokens: str | Path) -> str:
        before = snapshot(tmp_path)
        code = cli.main([str(token) for token in tokens])
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("error:")]
        assert code == 2, error
        assert len(lines) == 1, error
        assert "Traceback" not in error
        assert snapshot(tmp_path) == before
        return lines[0]

    return command


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pretrain(videos: Path, out: Path, *changes: str | Path) -> list[str | Path]:
    return ["pretrain", *TINY_PRETRAIN, "--data.train", videos / "good.csv", "--out", out, *changes]


def finetune(videos: Path, out: Path, *changes: str | Path) -> list[str | Path]:
    return ["finetune", *TINY, "--data.train", videos / "good.csv", "--out", out, *changes]


def weights(path: Path, *changes: str, kind: str = "classifier") -> Path:
    """A checkpoint of a tiny network in our own layout."""
    from videomae2.heads.classify import build_classifier
    from videomae2.models.build import build_autoencoder
    from videomae2.weights.write import save_safetensors

    cls: type[Any] = FinetuneSettings if kind == "classifier" else PretrainSettings
    settings = load_settings(cls, None, [*(TINY if kind == "classifier" else TINY_PRETRAIN), *changes]).model
    generator = torch.Generator().manual_seed(0)
    module = (
        build_classifier(settings, 2, 1.0, generator)
        if kind == "classifier"
        else build_autoencoder(settings, generator)
    )
    save_safetensors(path, module, settings, kind)
    return path


# ---- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--optim.bse_lr", "1"], "did you mean optim.base_lr?"),
        (
            ["--model.size", "large"],
            "model.size on the command line: expected a whole number from 1 to 16384, got 'large'",
        ),
        (["--model.size", "33"], "33 is not a multiple of patch 16; try height 32 or 48"),
        (["--model.num_frames", "5"], "num_frames 5 is not a multiple of tubelet 2; try num_frames 4 or 6"),
        (
            ["--model.num_frames", "0"],
            "model.num_frames on the command line: expected a whole number from 1 to 16384, got 0",
        ),
        (["--model.num_heads", "5"], "5"),
        (["--model.name", "vit_xl16"], "vit_xl16"),
        (["--model.size", "48"], "a running cell covers 2 x 2 tokens, but the grid has 3 rows and 3 columns"),
        (["--mask.decoder_ratio", "0.3"], "0.3"),
        (["--mask.encoder_ratio", "1.0"], "1.0"),
        (["--optim.length", "2 parsecs"], "got '2 parsecs'"),
        (["--optim.warmup", "9"], "expected optim.warmup of at most the 2 steps of optim.length 2, got 9"),
        (
            ["--optim.batch_size", "0"],
            "optim.batch_size on the command line: expected a whole number from 1 to 65536, got 0",
        ),
        (["--out", ""], "--out"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_folder_exists(
    videos: Path, out: Path, fails: Fails, changes: list[str], message: str
) -> None:
    assert message in fails(*pretrain(videos, out, *changes))
    assert not out.exists()


def test_cuda_is_refused_where_there_is_none(videos: Path, out: Path, fails: Fails) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert "cuda" in fails(*pretrain(videos, out, "--device", "cuda"))
    assert not out.exists()


# ---- data


@pytest.mark.parametrize("command", [pretrain, finetune])
@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "data.train"),
        ("nowhere.csv", "nowhere.csv"),
        ("empty.csv", "empty.csv"),
        ("empty.txt", "empty.txt"),
        ("nothing", "nothing"),
        ("no_path.csv", "path"),
        ("negative_label.csv", "-3"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(
    videos: Path, out: Path, fails: Fails, *, command: Callable[..., list[Any]], manifest: str, message: str
) -> None:
    path = videos / manifest if manifest else ""
    assert message in fails(*command(videos, out, "--data.train", path))
    assert not out.exists()


def test_a_label_out_of_range_is_named_with_its_line(videos: Path, out: Path, fails: Fails) -> None:
    error = fails(*finetune(videos, out, "--data.train", videos / "far_label.csv", "--num_classes", "2"))
    assert re.search(r"expected labels from 0 to 1, since num_classes is 2, got 7 \(row 4, .*0\.mp4\)", error)
    assert not out.exists()


def test_labels_of_the_validation_set_must_fit_too(videos: Path, out: Path, fails: Fails) -> None:
    error = fails(*finetune(videos, out, "--data.val", videos / "far_label.csv"))
    assert "7" in error
    assert not out.exists()


def test_fine_tuning_needs_labels(videos: Path, out: Path, fails: Fails) -> None:
    assert "label" in fails(*finetune(videos, out, "--data.train", videos / "unlabelled.csv"))
    assert not out.exists()


@pytest.mark.parametrize("command", [pretrain, finetune])
@pytest.mark.parametrize(
    ("manifest", "first"), [("broken.csv", "broken0.mp4"), ("absent.csv", "absent0.mp4")]
)
def test_where_every_video_is_broken_the_run_stops_at_once_and_names_the_first(
    videos: Path, out: Path, fails: Fails, *, command: Callable[..., list[Any]], manifest: str, first: str
) -> None:
    error = fails(*command(videos, out, "--data.train", videos / manifest, "--optim.length", "1000"))
    assert (
        f"none of 4 videos tried of {videos / manifest} could be read; the first failures: row 0, " in error
    )
    assert first in error
    assert not out.exists()


# ---- weights


@pytest.mark.parametrize("changes", [["--model.width", "96"], ["--model.depth", "2"], ["--model.patch", "4"]])
def test_a_checkpoint_of_another_architecture_is_refused(
    videos: Path, out: Path, tmp_path: Path, fails: Fails, changes: list[str]
) -> None:
    other = weights(tmp_path / "other.safetensors", *changes)
    key, value = changes[0].removeprefix("--"), changes[1]
    error = fails(*finetune(videos, out, "--init", other, changes[0], "8" if key == "model.patch" else "12"))
    assert "other.safetensors" in error and f"expected {key} {value}" in error
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.7])
def test_a_truncated_checkpoint_is_refused(
    videos: Path, out: Path, tmp_path: Path, fails: Fails, *, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save({"model": {"patch_embed.proj.weight": torch.zeros(48, 3, 2, 16, 16)}}, path)
    else:
        weights(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for tokens in (finetune(videos, out, "--init", path), ["weights", "show", path]):
        assert f"cut{suffix}" in fails(*tokens)
    assert not out.exists()


class Malice:
    """Unpickling this would run a command."""

    def __init__(self, target: Path) -> None:
        self.command = f"touch {target}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_execute_code_is_refused_and_never_executed(
    videos: Path, out: Path, tmp_path: Path, fails: Fails, zipped: bool
) -> None:
    bad, trace = tmp_path / "bad.pth", tmp_path / "executed"
    content = {"model": {"weight": torch.zeros(2)}, "args": Malice(trace)}
    if zipped:
        torch.save(content, bad)
    else:
        bad.write_bytes(pickle.dumps({"args": content["args"]}))
    commands: list[list[Any]] = [
        ["weights", "show", bad],
        ["weights", "convert", bad, tmp_path / "good.safetensors", "--layout", "ours"],
        finetune(videos, out, "--init", bad),
        pretrain(videos, out, "--init", bad),
        ["evaluate", "--weights", bad, "--data.val", videos / "good.csv"],
        ["predict", videos / "0.mp4", "--weights", bad],
        ["reconstruct", videos / "0.mp4", "--weights", bad, "-o", tmp_path / "r.mp4"],
    ]
    for tokens in commands:
        assert "bad.pth" in fails(*tokens)
    assert not trace.exists()
    assert not out.exists()


@pytest.mark.parametrize("command", [pretrain, finetune])
def test_missing_weights_are_named(
    videos: Path, out: Path, fails: Fails, command: Callable[..., list[Any]]
) -> None:
    assert "nowhere.pth" in fails(*command(videos, out, "--init", "nowhere.pth"))
    assert not out.exists()


# ---- the run's folder


def test_a_folder_that_holds_another_run_is_left_alone(
    videos: Path, out: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(token) for token in pretrain(videos, out)]) == 0
    capsys.readouterr()
    error = fails(*pretrain(videos, out, "--optim.base_lr", "1"))
    assert "holds another run: expected optim.base_lr 0.001, got 1.0" in error
    assert "a run of pretrain" in fails(*finetune(videos, out))


def test_a_folder_of_something_else_and_a_file_are_left_alone(videos: Path, out: Path, fails: Fails) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no run" in fails(*pretrain(videos, out))
    assert "expected a folder for the run, got the file" in fails(
        *pretrain(videos, out, "--out", out / "thesis.tex")
    )


# ---- evaluate, predict, reconstruct, data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--weights", ""], "weights"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--data.val", ""], "data.val"),
        (["--data.val", "nowhere.csv"], "nowhere.csv"),
        (
            ["--data.test_clips", "0"],
            "data.test_clips on the command line: expected a whole number from 1 to 1024, got 0",
        ),
        (
            ["--data.test_crops", "0"],
            "data.test_crops on the command line: expected a whole number from 1 to 1024, got 0",
        ),
    ],
)
def test_evaluate_refuses(
    videos: Path, out: Path, tmp_path: Path, fails: Fails, *, changes: list[str], message: str
) -> None:
    good = weights(tmp_path / "good.safetensors")
    base = [
        "evaluate",
        "--weights",
        good,
        "--data.val",
        videos / "good.csv",
        "--data.workers",
        "0",
        "--device",
        "cpu",
        "--out",
        out,
    ]
    assert message in fails(*base, *changes)
    assert not out.exists()


def test_evaluate_refuses_weights_without_a_classifier(
    videos: Path, out: Path, tmp_path: Path, fails: Fails
) -> None:
    pretrained = weights(tmp_path / "pretrained.safetensors", kind="pretrain")
    error = fails(
        "evaluate",
        "--weights",
        pretrained,
        "--data.val",
        videos / "good.csv",
        "--device",
        "cpu",
        "--out",
        out,
    )
    assert "pretrained.safetensors" in error
    assert not out.exists()


def test_predict_and_reconstruct_name_a_file_they_cannot_read(
    videos: Path, tmp_path: Path, fails: Fails
) -> None:
    classifier = weights(tmp_path / "classifier.safetensors")
    autoencoder = weights(tmp_path / "autoencoder.safetensors", kind="pretrain")
    for name in ("broken0.mp4", "absent.mp4"):
        assert name in fails("predict", videos / name, "--weights", classifier, "--device", "cpu")
        target = tmp_path / "r.mp4"
        assert name in fails(
            "reconstruct", videos / name, "--weights", autoencoder, "-o", target, "--device", "cpu"
        )


def test_reconstruct_needs_a_decoder_and_predict_a_classifier(
    videos: Path, tmp_path: Path, fails: Fails
) -> None:
    classifier = weights(tmp_path / "classifier.safetensors")
    autoencoder = weights(tmp_path / "autoencoder.safetensors", kind="pretrain")
    assert "decoder" in fails(
        "reconstruct", videos / "0.mp4", "--weights", classifier, "-o", tmp_path / "r.mp4"
    )
    assert "autoencoder.safetensors" in fails("predict", videos / "0.mp4", "--weights", autoencoder)


@pytest.mark.parametrize("name", ["empty.csv", "nowhere.csv", "nothing", "no_path.csv"])
def test_data_show_and_check_name_what_they_cannot_read(videos: Path, fails: Fails, name: str) -> None:
    assert name in fails("data", "show", videos / name)
    assert name in fails("data", "check", videos / name)


def test_data_check_ends_as_a_mistake_where_a_video_is_broken(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "check", str(videos / "good.csv")]) == 0
    assert cli.main(["data", "check", str(videos / "broken.csv")]) == 2
    said = capsys.readouterr()
    assert said.out.endswith("4 files, 0 readable, 4 broken\n") and said.err.startswith(
        "error: 4 of the files"
    )


# ---- in a process of its own


def test_as_a_process_the_mistake_is_one_line_and_exit_code_2(videos: Path, out: Path) -> None:
    tokens = [str(token) for token in pretrain(videos, out, "--data.train", "nowhere.csv")]
    found = subprocess.run(
        [sys.executable, "-m", "videomae2.cli.main", *tokens], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2, found.stderr
    assert re.fullmatch(r"error: [^\n]*nowhere\.csv[^\n]*\n", found.stderr)
    assert not out.exists()
