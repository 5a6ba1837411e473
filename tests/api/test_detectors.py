"""Each kind of detector finds boxes in pixels of the picture, and says what is wrong with its input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videomae2.api.detectors import (
    FileDetector,
    Moment,
    MotionDetector,
    OnnxDetector,
    OnnxPage,
    Tiled,
    WholeFrame,
    describe,
    find_detector,
    ssd_anchors,
)
from videomae2.chance import torch_generator
from videomae2.data.video.decode import open_video
from videomae2.errors import UserError
from videomae2.labels import Boxes

SSD = """
output = "ssd"
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
person = 4
sigmoid = true
threshold = 0.3
licence = "Apache-2.0"
"""


def moment(height: int = 60, width: int = 90, seconds: float = 0.0) -> Moment:
    """A bright square that goes to the right over noise: at x 30 to 42 and y 20 to 32 in the key frame."""
    noise = torch.randint(60, 70, (3, height, width), generator=torch_generator(0)).to(torch.uint8)
    clip = noise.repeat(8, 1, 1, 1)
    for t, frame in enumerate(clip):
        left = 30 + 7 * (t - 4)
        frame[:, 20:32, max(0, left) : left + 12] = 230
    return Moment(seconds, clip[4], clip)


def test_motion_finds_what_moves_and_says_its_limits() -> None:
    detector = MotionDetector()
    (found,) = detector([moment()])
    assert found.xyxy.shape == (1, 4)
    torch.testing.assert_close(found.xyxy[0], torch.tensor([30.0, 20, 42, 32]), atol=2.0, rtol=0)
    still = moment()
    (none,) = detector([Moment(0.0, still.picture, still.picture.repeat(8, 1, 1, 1))])
    assert len(none.xyxy) == 0 and "whoever stands still is missed" in detector.warning


def test_motion_answers_in_pixels_of_the_whole_picture() -> None:
    small = moment()
    large = torch.nn.functional.interpolate(small.picture[None], scale_factor=2)[0]
    (found,) = MotionDetector()([Moment(0.0, large, small.clip)])
    torch.testing.assert_close(found.xyxy[0], torch.tensor([60.0, 40, 84, 64]), atol=4.0, rtol=0)


def test_the_whole_frame() -> None:
    (found,) = WholeFrame()([moment()])
    assert found.xyxy.tolist() == [[0, 0, 90, 60]] and "one actor" in WholeFrame().warning


PIXELS = """video,time,x1,y1,x2,y2,label,score
clip,1.5,9,6,45,30,run,0.9
clip,1.5,9,6,45,30,sit,0.4
clip,1.5,0,0,9,9,,0.2
"""
SHARES = "clip,1.5,0.1,0.1,0.5,0.5,,0.9\nclip,1.5,0,0,0.1,0.15,,0.2\n"


@pytest.mark.parametrize("text", [PIXELS, SHARES])
def test_a_file_of_boxes_in_pixels_and_in_shares(text: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    detector = FileDetector(str(path), threshold=0.5).of("folder/clip.mp4", 25.0)
    assert detector.times() == [1.5]
    found, other = detector([moment(seconds=1.5), moment(seconds=2.0)])
    torch.testing.assert_close(found.xyxy, torch.tensor([[9.0, 6, 45, 30]]))
    assert found.scores is not None and found.scores.tolist() == pytest.approx([0.9]) and len(other.xyxy) == 0
    assert detector.of("clip.avi", 25.0).times() == [1.5]  # for one video after another
    with pytest.raises(UserError, match="expected boxes of 'other', got those of clip"):
        FileDetector(str(path)).of("other.mp4", 25.0)


class Corner:
    """Finds one box, always at the same pixels of whatever it is shown."""

    name, licence, threshold, warning = "corner", "none", 0.5, ""

    def __call__(self, moments: Any) -> list[Boxes]:
        return [Boxes.one(torch.tensor([[1.0, 2, 11, 12]]), scores=torch.tensor([0.8])) for _ in moments]


def test_tiles_put_their_boxes_where_they_lie_in_the_picture() -> None:
    (found,) = Tiled(Corner())([moment()])
    # Tiles of 38 x 57: those of the left top and of the whole picture are one box after suppression.
    assert sorted(found.xyxy[:, :2].tolist()) == [[1, 2], [1, 24], [34, 2], [34, 24]]


def test_words_that_name_no_detector() -> None:
    with pytest.raises(
        UserError, match="expected a detector as transformers:NAME_OR_FOLDER, onnx:FILE, motion"
    ):
        find_detector("yolo")
    with pytest.raises(UserError, match=r"no ONNX file at .*none.onnx"):
        find_detector("onnx:none.onnx")
    assert find_detector("auto").name == "motion"
    assert describe(find_detector("whole")) == "detector whole: threshold 0, licence part of this package"


# ---- ONNX


def undecoded(page: OnnxPage, side: int = 100) -> OnnxDetector:
    detector = OnnxDetector.__new__(OnnxDetector)
    detector.page, detector.name, detector.side, detector._anchors = page, "onnx:x", side, None
    return detector


def test_anchors_by_hand() -> None:
    anchors = ssd_anchors(OnnxPage())
    assert len(anchors) == 19 * 19 * 3 + (100 + 25 + 9 + 4 + 1) * 6 == 1917
    torch.testing.assert_close(anchors[0], torch.tensor([0.5 / 19, 0.5 / 19, 0.1, 0.1]))
    torch.testing.assert_close(anchors[1], torch.tensor([0.5 / 19, 0.5 / 19, 0.2 / 2**0.5, 0.2 * 2**0.5]))
    torch.testing.assert_close(anchors[-1][2:], torch.tensor([0.95**0.5] * 2))


def test_offsets_of_an_ssd_by_hand() -> None:
    page = OnnxPage(output="ssd", person=1, sigmoid=True)
    offsets = torch.zeros(1, 1917, 4)
    offsets[0, 0] = torch.tensor([10.0, 20.0, 5 * np.log(2), 0.0])
    xyxy, scores = undecoded(page).decode([offsets, torch.zeros(1, 1917, 3)])
    centre_y, centre_x = 0.5 / 19 + 0.1, 0.5 / 19 + 0.2
    expected = torch.tensor([centre_x - 0.05, centre_y - 0.1, centre_x + 0.05, centre_y + 0.1])
    torch.testing.assert_close(xyxy[0], expected)
    assert scores[0] == 0.5


def test_plain_boxes_and_boxes_with_score_and_class() -> None:
    corners = torch.tensor([[[10.0, 20, 30, 40], [0, 0, 100, 100]]])
    xyxy, scores = undecoded(OnnxPage(person=1)).decode([corners, torch.tensor([[[0.1, 0.7], [0.2, 0.3]]])])
    assert xyxy.tolist() == [pytest.approx([0.1, 0.2, 0.3, 0.4]), [0, 0, 1, 1]]
    assert scores.tolist() == pytest.approx([0.7, 0.3])
    rows = torch.tensor([[[10.0, 20, 30, 40, 0.9, 0], [0, 0, 50, 50, 0.8, 2]]])
    xyxy, scores = undecoded(OnnxPage(person=2)).decode([rows])
    assert xyxy.tolist() == [[0, 0, 0.5, 0.5]] and scores.tolist() == pytest.approx([0.8])


@pytest.mark.parametrize(
    ("page", "outputs", "message"),
    [
        (OnnxPage(), [torch.zeros(1, 8400, 85)], r"got outputs \[1, 8400, 85\]; describe them in a page"),
        (
            OnnxPage(output="ssd"),
            [torch.zeros(1, 7, 4), torch.zeros(1, 7, 2)],
            r"expected 1917 boxes, .* got 7",
        ),
        (
            OnnxPage(person=9),
            [torch.zeros(1, 7, 4), torch.zeros(1, 7, 2)],
            r"class of persons below 2, got person = 9",
        ),
    ],
)
def test_outputs_that_are_not_as_described(page: OnnxPage, outputs: list[Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        undecoded(page).decode(outputs)


def test_a_page_with_a_wrong_word(tmp_path: Path) -> None:
    path = tmp_path / "page.toml"
    path.write_text("treshold = 0.3\n")
    with pytest.raises(
        UserError, match=r"page.toml: 'treshold' is not known; a detector's page has size, mean"
    ):
        OnnxPage.read(path)
    path.write_text('threshold = "high"\n')
    with pytest.raises(UserError, match=r"page.toml: expected threshold as float, got 'high'"):
        OnnxPage.read(path)


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"x.onnx is no ONNX network that onnxruntime can run"):
        OnnxDetector(str(tmp_path / "x.onnx"))


def test_the_ssd_finds_the_person_of_a_real_video(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "ssd.toml").write_text(SSD)
    detector = OnnxDetector(f"{shared_data / 'detector' / 'ssd.onnx'}@{tmp_path / 'ssd.toml'}")
    assert describe(detector) == "detector onnx:ssd.onnx: threshold 0.3, licence Apache-2.0"
    with open_video(shared_data / "ucf101_10" / "clips_c01" / "v_WalkingWithDog_g01_c01.avi") as video:
        picture = video.read([60])[0].contiguous()
    (found,) = detector([Moment(0.0, picture, picture[None])])
    assert len(found.xyxy) >= 1 and found.scores is not None and float(found.scores[0]) > 0.3


# ---- transformers


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny YOLOS of random weights, as a folder that `from_pretrained` reads."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("yolos")
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        patch_size=16, num_detection_tokens=5, id2label={0: "cat", 1: "Person"},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "YolosImageProcessor", "size": {"height": 64, "width": 64}}'
    )
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def test_a_network_of_transformers_by_its_folder(yolos: Path) -> None:
    detector = find_detector(f"transformers:{yolos}", threshold=0.0)
    assert detector.licence == "apache-2.0" and detector.threshold == 0
    found = detector([moment(), moment(120, 90)])
    assert len(found) == 2
    for each, height in zip(found, (60, 120), strict=True):
        assert bool((each.xyxy[:, 3] <= height).all()) and bool((each.xyxy[:, 2] <= 90).all())
        assert each.scores is not None and each.scores.tolist() == sorted(each.scores.tolist(), reverse=True)


def test_a_folder_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"expected a detector of transformers, got .*, which has none"):
        find_detector(f"transformers:{tmp_path}")
