"""Every setting of every recipe: its default, its bounds beside it.

Defaults are those of the released ViT-B scripts, hybrid pre-training and fine-tuning on Kinetics-400, and of
their evaluation (`experiments/`: pretrain/b_script, finetune/b_k400, evaluate/kinetics_5x3); tests hold them
to these pages. Other sizes and data sets have pages of their own.

No torch and no cyclopts here: `--help` reads this file, and loader processes import it. A command whose
defaults differ from its section's says so in a type of its own (`PretrainData`), so that a change of one key
keeps the others.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from videomae2.bounds import Between, Lasting

# `int` comes first: of a union's types the first that fits is taken, and any text fits `str`.
Duration = Annotated[int | str, Lasting()]
"""12000 is optimizer steps, "30ep" epochs, "5%" a share of the run; resolved once the rows are counted."""

# Upper bounds stand far above what anyone has trained, and far below what ends in a crash or never: they are
# there for slips of the hand, not for taste.
Share = Annotated[float, Between(0, 1)]
BelowOne = Annotated[float, Between(0, 1, below=True)]
Factor = Annotated[float, Between(0, 1000)]
Views = Annotated[int, Between(1, 1024)]
Side = Annotated[int, Between(1, 16384)]
Frames = Annotated[int, Between(1, 16384)]
Blocks = Annotated[int, Between(1, 1000)]
Batch = Annotated[int, Between(1, 65536)]
Seed = Annotated[int, Between(-(2**63), 2**63 - 1)]
Often = Annotated[int, Between(1, 10**9)]


@dataclass(frozen=True)
class ModelSettings:
    """Which network, on which grid. None takes the size table's value (paper, tables of the appendix)."""

    name: str = "vit_b16"
    """vit_ti16, vit_s16, vit_b16, vit_l16, vit_h16 or vit_g14."""
    num_frames: Frames = 16
    """Frames of a clip."""
    size: Side = 224
    """Height and width of a clip in pixels."""
    tubelet: Annotated[int, Between(1, 64)] = 2
    """Frames of a cube."""
    patch: Annotated[int | None, Between(1, 1024)] = None
    """Height and width of a cube in pixels: 16, and 14 for vit_g14."""
    width: Annotated[int | None, Between(1, 65536)] = None
    """Embedding width of the encoder; none: the size table's."""
    depth: Annotated[int | None, Between(1, 1000)] = None
    """Blocks of the encoder; none: the size table's."""
    num_heads: Annotated[int | None, Between(1, 1024)] = None
    """Attention heads of the encoder; none: the size table's."""
    decoder_depth: Blocks = 4
    """Blocks of the decoder, which only pre-training has."""
    decoder_width: Annotated[int | None, Between(1, 65536)] = None
    """Embedding width of the decoder; none: the size table's."""
    decoder_heads: Annotated[int | None, Between(1, 1024)] = None
    """Attention heads of the decoder; none: the size table's."""
    native_frames: Frames = 16
    """Frames of the grid the position table is made for; other grids interpolate it in 3-D."""
    native_size: Side = 224
    """As native_frames, for height and width."""
    positions: Literal["sinusoid", "axes", "learned"] = "sinusoid"
    """sinusoid: released, over the flattened grid; axes: of time, row and column apart (ours, for small
    networks).
    """
    cosine_attention: bool = False
    """Attention by the angle between queries and keys; no released model has it."""
    layer_scale: Factor = 0.0
    """Initial LayerScale; 0 is off, as in every released model."""
    drop_path: BelowOne = 0.0
    """Probability that the last block is skipped in training; earlier blocks less, down to 0."""
    head_dropout: BelowOne = 0.0
    """Dropout before the classification head."""
    activation_checkpointing: bool = False
    """Compute blocks again in the backward pass: of each only its input is kept, for about a third more
    time.
    """
    mlp_checkpointing: bool = False
    """Compute only the hidden values of MLPs again: 0.6 of the activations, for less than a tenth more
    time.
    """


OF_THE_NETWORK = (
    "name", "tubelet", "patch", "width", "depth", "num_heads", "native_frames", "native_size", "positions",
    "cosine_attention", "layer_scale",
)  # fmt: skip
"""Model settings that weights of an encoder fix: with others they would not fit, or be read in another
way.
"""
OF_THE_DECODER = ("decoder_depth", "decoder_width", "decoder_heads")
"""And those that they fix where they have a decoder, and so has the task."""
OF_THE_CLIP = ("num_frames", "size")
"""Model settings that are taken from weights where they are not set; others interpolate the positions."""
BROUGHT_BY_WEIGHTS = tuple(f"model.{name}" for name in (*OF_THE_NETWORK, *OF_THE_DECODER, *OF_THE_CLIP))
"""Dotted keys that a preset leaves to the weights of `init`, where there are any."""


@dataclass(frozen=True)
class DataSettings:
    """Which clips, how they are sampled, and how they are changed."""

    train: str = ""
    """A manifest (.parquet, .arrow, .csv), a released list file (.txt), a folder of class folders, or a
    folder of videos.
    """
    val: str = ""
    """As `train`; what `evaluate` and the periodic evaluation read. Empty: no evaluation."""
    root: str = ""
    """Folder that relative paths in a manifest start from; empty: the manifest's own folder."""
    list_format: Literal["auto", "pretrain", "video", "frames"] = "auto"
    """What two numbers after each path of a released list are. pretrain: first frame and count; video: count
    and label; frames: as video, of folders of raw frames; auto: told from the numbers, refused where both
    would do."""
    first_label: Annotated[int, Between(0, 10**6)] = 0
    """The number of the first class where labels are numbers: 1 for lists that count from 1, as UCF101's."""
    frame_pattern: str = "img_{:05}.jpg"
    """How the raw frames of a released list are named, where it lists folders; a table has a column
    `pattern`.
    """
    sampling: Literal["dense", "segments", "key"] = "dense"
    """dense: one window of `num_frames` x `stride`; segments: one frame from each of `num_frames` equal parts
    (TSN); key: `num_frames`, `stride` apart, about the key frame of the row, or about its middle.
    """
    stride: Annotated[int, Between(1, 10_000)] = 4
    """Frames between sampled frames, where a row does not say."""
    target_fps: Factor = 0.0
    """Sample by time: as if the video ran at this rate. 0: by frame number."""
    frame_order: Literal["as_filmed", "shuffled"] = "as_filmed"
    """shuffled is a control: it destroys motion and keeps every frame."""
    repeated_views: Views = 1
    """Views made from one decode of a training video (repeated augmentation)."""
    crop: Literal["multi_scale", "random_resized", "random_scale", "center"] = "random_resized"
    """multi_scale: four corners and the middle at several sizes (pre-training); random_resized: any area and
    shape; random_scale: a square anywhere (detection); center: the middle square."""
    crop_scale: Annotated[tuple[float, float], Between(0, 1)] = (0.08, 1.0)
    """Area range of random_resized; of random_scale the side, in shares of the short side."""
    color_jitter: Annotated[tuple[float, float, float], Between(0, 1)] = (0.0, 0.0, 0.0)
    """Largest change of hue (in turns), saturation and brightness, one draw a clip."""
    flip: bool = True
    """Horizontal flip with probability one half. Off where left and right differ in meaning (SSv2)."""
    rand_augment: str = "rand-m7-n4-mstd0.5-inc1"
    """RandAugment policy in timm's notation; empty: none."""
    erasing: Share = 0.25
    """Probability of random erasing."""
    test_clips: Views = 5
    """Clips of a video in an evaluation, evenly spread; each gives `test_crops` views."""
    test_crops: Views = 3
    """Squares of a clip in an evaluation, evenly along its long side; 1 is the middle."""
    workers: Annotated[int, Between(0, 1024)] = 2
    """Loader processes of each training process; 0 decodes in the training process."""
    max_broken: Share = 0.05
    """Training stops when more than this share of an epoch's videos, over all processes, could not be
    read.
    """
    max_seconds: Annotated[float, Between(0, 10**6)] = 300.0
    """A video that takes longer than this is a failure; 0: however long it takes."""
    retries: Annotated[int, Between(0, 100)] = 5
    """How often a network, server or disk that fails is tried again, after 0.5, 1, 2 ... seconds."""


@dataclass(frozen=True)
class MaskSettings:
    """Dual masking (paper 3.2): what the encoder does not see, and what the decoder predicts."""

    encoder: Literal["tube", "random", "frame"] = "tube"
    """tube: the same places at every step; random: any tokens; frame: whole steps."""
    encoder_ratio: BelowOne = 0.9
    """Share of tokens hidden from the encoder; counts round as released: int(ratio * tokens of a step)
    hidden.
    """
    decoder: Literal["none", "running_cell", "random", "frame"] = "running_cell"
    """running_cell: a 2 x 2 block whose kept places move on at every step (paper); none: all hidden tokens
    are predicted.
    """
    decoder_ratio: BelowOne = 0.5
    """Share of tokens the decoder leaves out."""
    membership: Literal["released", "unseen"] = "released"
    """released: mask tokens at all kept positions, seen ones too; unseen: only where the encoder was blind
    (cheaper).
    """
    scored: Literal["unseen", "all"] = "unseen"
    """Which predictions count: unseen as published; all is the ablation row of table 1 (66.74)."""


@dataclass(frozen=True)
class TargetSettings:
    """What a prediction is compared with."""

    normalize: Literal["channel", "cube", "none"] = "channel"
    """channel: per cube and colour channel, as released; cube: over the whole cube; none: raw pixels in [0,
    1].
    """


@dataclass(frozen=True)
class OptimSettings:
    """AdamW with the released parameter groups; peak learning rate = base_lr * batch / 256."""

    base_lr: Factor = 1e-3
    """Learning rate for a batch of 256."""
    lr_counts_views: bool = False
    """Whether `batch` in the rule above counts repeated views: the released scripts count videos, the paper's
    table of pre-training counts views (8192 = 2048 x 4, with a base_lr of 1.5e-4).
    """
    min_lr: Factor = 1e-5
    """Final learning rate, scaled by the same rule."""
    weight_decay: Factor = 0.05
    """Decoupled, for matrices only: biases, norms and position tables have none (released)."""
    betas: Annotated[tuple[float, float], Between(0, 1, below=True)] = (0.9, 0.95)
    """Decay of AdamW's running means of the gradient and of its square."""
    eps: Share = 1e-8
    """Added to the root of the mean square before it divides."""
    layer_decay: Share = 1.0
    """Each earlier block learns at this share of the rate of the next; 1: all alike."""
    clip_grad: Annotated[float, Between(0, 10**9)] = 0.0
    """Largest global gradient norm; 0: no clipping."""
    batch_size: Batch = 32
    """Videos of one process and one forward; repeated views multiply it."""
    accumulate: Batch = 1
    """Forwards summed into one optimizer step."""
    length: Duration = "200ep"
    """How long the run is."""
    warmup: Duration = "20ep"
    """How long the learning rate rises to its peak; then it falls as a cosine."""
    ema_decay: BelowOne = 0.0
    """Decay of the averaged weights, evaluated beside the trained ones; 0: none."""


@dataclass(frozen=True)
class RunSettings:
    """Where a run lives and how it is executed; only `seed` and `precision` change its numbers."""

    out: str = ""
    """The run's folder."""
    seed: Seed = 0
    """Decides everything random, whatever the number of workers or processes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: forward and backward under bf16 autocast, weights and optimizer in fp32."""
    decoder_fp32: bool = False
    """Run the decoder in fp32 under bf16 autocast, as the paper's appendix states."""
    shard: Literal["none", "grad", "full"] = "none"
    """What several processes share of the network (torchrun): none: each holds all of it (DDP); full: each
    holds a part of every parameter, and gathers a block at a time (FSDP2); grad: as full, but a block stays
    gathered from its forward to its backward.
    """
    compile: bool = False
    """Compile the network with torch.compile: pays on a GPU."""
    checkpoint_every: Annotated[int | str, Lasting(minutes=True)] = "1ep"
    """How often the run can be resumed from, also in minutes ("20min"); it is always saved at the end."""
    evaluate_every: Duration = "100%"
    """How often the videos of `data.val` are evaluated; 100%: at the end."""
    log_every: Often = 10
    """Steps between lines of metrics.jsonl."""
    keep_last: Annotated[int, Between(2, 10**9)] = 2
    """Checkpoints kept, beside the best one; at least 2, as the newest may be damaged."""
    max_nonfinite: Annotated[int, Between(0, 10**9)] = 3
    """Consecutive steps with a non-finite loss or gradient that are skipped before the run stops."""
    tensorboard: bool = True
    """Also write the numbers as TensorBoard events, where it is installed."""


@dataclass(frozen=True)
class PretrainData(DataSettings):
    """Clips of pre-training: four views from each decode, light augmentation (paper, appendix)."""

    repeated_views: Views = 4
    crop: Literal["multi_scale", "random_resized", "random_scale", "center"] = "multi_scale"
    flip: bool = False
    rand_augment: str = ""
    erasing: Share = 0.0


@dataclass(frozen=True)
class PretrainSettings:
    """`videomae2 pretrain`: masked autoencoding of unlabelled video with dual masking (paper 3.2, 4.1)."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: PretrainData = field(default_factory=PretrainData)
    mask: MaskSettings = field(default_factory=MaskSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    run: RunSettings = field(default_factory=RunSettings)
    init: str = ""
    """Weights to continue from: a run, a .safetensors, a released .pth, or a hub name. Empty: from
    scratch.
    """


@dataclass(frozen=True)
class FinetuneModel(ModelSettings):
    """The network of fine-tuning, regularised by stochastic depth (released scripts)."""

    drop_path: BelowOne = 0.1


@dataclass(frozen=True)
class FinetuneData(DataSettings):
    """Clips of fine-tuning: two views from each decode, full augmentation (released scripts)."""

    repeated_views: Views = 2


@dataclass(frozen=True)
class FinetuneOptim(OptimSettings):
    """AdamW as fine-tuning uses it: layer-wise decay, and a learning rate counted in videos (released)."""

    base_lr: Factor = 7e-4
    min_lr: Factor = 1e-6
    betas: Annotated[tuple[float, float], Between(0, 1, below=True)] = (0.9, 0.999)
    layer_decay: Share = 0.75
    batch_size: Batch = 16
    length: Duration = "90ep"
    warmup: Duration = "5ep"


@dataclass(frozen=True)
class FinetuneSettings:
    """`videomae2 finetune`: supervised training of a classifier.

    Also post-pre-training on a labelled mix (paper 3.3).
    """

    model: FinetuneModel = field(default_factory=FinetuneModel)
    data: FinetuneData = field(default_factory=FinetuneData)
    optim: FinetuneOptim = field(default_factory=FinetuneOptim)
    run: RunSettings = field(default_factory=RunSettings)
    num_classes: Annotated[int, Between(0, 10**6)] = 0
    """0: counted from the training manifest."""
    head_init_scale: Factor = 0.001
    """The fresh head's weights and bias are multiplied by this (released)."""
    label_smoothing: BelowOne = 0.1
    """Share of each target that is spread over all classes."""
    mixup: Factor = 0.8
    """Beta parameter of mixup; 0: off."""
    cutmix: Factor = 1.0
    """Beta parameter of cutmix; 0: off."""
    mix_probability: Share = 1.0
    """Share of the pairs of videos that are mixed."""
    mix_switch: Share = 0.5
    """Probability of cutmix over mixup where both are on."""
    init: str = ""
    """Pre-trained or classifier weights: a run, a .safetensors, a released .pth, or a hub name. Empty: from
    scratch.
    """
    label_map: str = ""
    """A JSON list of old class numbers, one for each new class, to slice a released head (710 ->
    400/600/700).
    """


@dataclass(frozen=True)
class DetectData(DataSettings):
    """Clips about key frames, trained on annotated boxes and evaluated on detected ones (paper, appendix)."""

    train: str = ""
    """A file of boxes: AVA's .csv, a .csv with a header (video,time,x1,y1,x2,y2,label), COCO's .json, tubes.
    """
    val: str = ""
    """As `train`. Empty: no evaluation."""
    root: str = ""
    """Folder of the videos; empty: that of the annotations."""
    sampling: Literal["dense", "segments", "key"] = "key"
    crop: Literal["multi_scale", "random_resized", "random_scale", "center"] = "random_scale"
    crop_scale: Annotated[tuple[float, float], Between(0, 1)] = (0.7, 0.875)
    rand_augment: str = ""
    erasing: Share = 0.0
    actions: str = ""
    """List of actions: AVA's .pbtxt, or a text with a name a line. Empty: those that the annotations name."""
    excluded: str = ""
    """AVA's file of timestamps that an evaluation leaves out."""
    coordinates: Literal["auto", "shares", "pixels"] = "auto"
    """What boxes are in: shares of the picture, pixels, or what their numbers look like."""
    starts_at: Factor = 0.0
    """Second of the source at which each video file begins: 900 for AVA's cut files."""
    proposals: str = ""
    """Boxes that a detector found at the key frames of `val`, with scores. Empty: the annotated boxes."""
    min_score: Share = 0.8
    """Least score of a proposal; it belongs to the detector (0.8 for the released boxes of AVA)."""
    box_growth: Annotated[tuple[float, float], Between(0, 10)] = (0.0, 0.0)
    """Shares of width and height added on each side of a box that is scored (V1: 0.1 0.05)."""
    box_jitter: Annotated[tuple[float, float], Between(0, 1)] = (0.0, 0.0)
    """Largest shares of width and height by which edges move out in training, half of it in (V1: 0.2 0.1)."""
    test_size: Annotated[int, Between(0, 16384)] = 0
    """Short side of whole frames in an evaluation; 0: the network's size (V1: 256, for a network of 224)."""


@dataclass(frozen=True)
class DetectModel(ModelSettings):
    """The network of detection, regularised by stochastic depth (paper, appendix)."""

    drop_path: BelowOne = 0.3


@dataclass(frozen=True)
class DetectOptim(FinetuneOptim):
    """AdamW as spatial detection uses it (paper, appendix: a batch of 128 key frames)."""

    base_lr: Factor = 3e-4
    layer_decay: Share = 0.9
    length: Duration = "10ep"
    warmup: Duration = "2ep"


@dataclass(frozen=True)
class SpatialHead:
    """The head of spatial action detection."""

    roi_size: Annotated[int, Between(1, 64)] = 7
    """Cells along each side of the raster inside a box (V1: 7)."""
    pooling: Literal["mean", "attentive"] = "mean"
    """Over time: mean (V1), or a learned weight of each token."""
    context: bool = False
    """Whether the head also sees the mean of the whole clip."""
    init_scale: Factor = 1.0
    """The fresh head's weights, normal with standard deviation 0.02, are multiplied by this."""


@dataclass(frozen=True)
class DetectSettings:
    """`videomae2 detect-train`: what each actor does, from boxes with actions (paper 4.3)."""

    model: DetectModel = field(default_factory=DetectModel)
    data: DetectData = field(default_factory=DetectData)
    head: SpatialHead = field(default_factory=SpatialHead)
    optim: DetectOptim = field(default_factory=DetectOptim)
    run: RunSettings = field(default_factory=RunSettings)
    loss: Literal["bce", "balanced", "focal"] = "bce"
    """bce: binary cross-entropy of each action (released); balanced: rare actions weigh more; focal: what is
    already right weighs less.
    """
    init: str = ""
    """Pre-trained, classifier or detector weights: a run, a .safetensors, a released .pth, or a hub name.
    Empty: from scratch.
    """


@dataclass(frozen=True)
class EvaluateSettings:
    """`videomae2 evaluate`: top-1 and top-5 over several views of each video, every video decoded once."""

    weights: str = ""
    """A run, a .safetensors, a released .pth, or a hub name."""
    data: DataSettings = field(default_factory=DataSettings)
    batch_size: Batch = 1
    """Videos of one forward; each brings test_clips x test_crops views."""
    views_per_forward: Annotated[int, Between(0, 65536)] = 15
    """Views sent through the network at once; lower it where memory is short."""
    use_ema: bool = True
    """Use a run's averaged weights where it has them."""
    as_trained: bool = True
    """Take clips as the weights were trained to see them (stride and the like), where a setting is left at
    its default.
    """
    match: Literal["names", "order"] = "names"
    """How the classes of the videos are matched with the network's: by name, or, where the network's names
    say nothing, in the order of their numbers.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: forward under bf16 autocast, weights in fp32."""
    out: str = ""
    """Folder for the report, the per-class table, the confusion matrix and the scores of each video."""


@dataclass(frozen=True)
class LocalizeModel:
    """The temporal detector over a sequence of features: ActionFormer's sizes for THUMOS14 (paper 4.3)."""

    width: Annotated[int, Between(8, 8192)] = 512
    """Embedding width of the pyramid and of both heads."""
    num_heads: Annotated[int, Between(1, 1024)] = 4
    """Attention heads."""
    window: Annotated[int, Between(3, 10_001)] = 19
    """Features that attention of one level spans, an odd number."""
    levels: Annotated[int, Between(1, 12)] = 6
    """Levels of the pyramid, each half as long as the one before; level l finds segments of 2 ** (l + 1)
    features and more.
    """
    global_levels: Annotated[int, Between(0, 12)] = 0
    """How many of the last levels attend to the whole sequence, without a window."""
    embed_layers: Annotated[int, Between(1, 16)] = 2
    """Convolutions that bring features to `width`."""
    stem_blocks: Annotated[int, Between(0, 64)] = 2
    """Blocks at full length, before the pyramid."""
    head_layers: Annotated[int, Between(1, 16)] = 3
    """Convolutions of each head, the last one included."""
    kernel: Annotated[int, Between(1, 31)] = 3
    """Features that each convolution spans, an odd number."""
    positions: bool = False
    """Add a sinusoid of the place in the sequence; for FineAction, whose sequences are whole videos."""
    drop_path: BelowOne = 0.1
    """Probability that a residual branch is skipped in training."""
    dropout: BelowOne = 0.0
    """Dropout in attention and MLPs."""
    max_length: Annotated[int, Between(8, 1_000_000)] = 2304
    """Features of a training sequence: shorter ones are padded, of longer ones a part is taken."""
    first_normalizer: Annotated[float, Between(1, 10**9)] = 100.0
    """What losses are divided by at first; then it follows the number of points that lie in a segment."""


@dataclass(frozen=True)
class LocalizeData:
    """Which videos with which segments, and where their features are."""

    train: str = ""
    """Annotations: ActivityNet-style JSON (also MultiTHUMOS, FineAction), CSV with
    video,start_s,end_s,label, or the files of THUMOS14.
    """
    val: str = ""
    """As `train`; what is evaluated. Empty: no evaluation. It may be the same file with another subset."""
    train_subset: str = ""
    """The subset of `train` to take, as its column or field says; empty: all videos."""
    val_subset: str = ""
    """The subset of `val` to take; empty: all videos."""
    label_key: str = "label"
    """The field or column of an annotation that holds its class."""
    invalid: Literal["tell", "drop", "refuse"] = "tell"
    """Segments that are empty, beyond their video, there twice or overlap one of their class: tell names file
    and line and keeps them, as evaluators do; drop leaves them out; refuse ends the run.
    """
    features: str = ""
    """A folder with a .npy or .npz of each video, [features, values], or one .npz with an array of
    each video.
    """
    feature_stride: Factor = 0.0
    """Frames between the features; 0: as the features' own header says."""
    feature_window: Factor = 0.0
    """Frames that one feature looks at; 0: as the features' own header says."""
    fps: Factor = 0.0
    """Frames of a second; 0: as the annotations or the features' header say for each video."""
    every: Annotated[int, Between(1, 1000)] = 1
    """Take each so many-th feature."""
    transform: Literal["none", "sqrt"] = "none"
    """sqrt: the root of each value, for counts and energies; no value may be below 0."""
    resize: Annotated[int, Between(0, 1_000_000)] = 0
    """Stretch the features of each video to this number, as for FineAction (192); 0: leave them."""
    crop: Annotated[tuple[float, float], Between(0, 1)] = (0.9, 1.0)
    """Share of a training sequence that is taken, by chance, where it is not too long anyway."""
    keep_share: Share = 0.5
    """A segment that is cut by this is still learned if this share of it is left."""
    one_class: bool = False
    """Class-agnostic: all segments are one class; `video_scores` then says which."""
    video_scores: str = ""
    """With one_class: JSON from each video to its scores, one for each class in the order of their names."""
    thresholds: Literal["thumos14", "activitynet"] = "thumos14"
    """tIoU thresholds of the evaluation: 0.3 to 0.7, or 0.5 to 0.95 (ActivityNet, FineAction)."""


@dataclass(frozen=True)
class PointSettings:
    """What the points of the pyramid learn."""

    radius: Annotated[float, Between(0, 100)] = 1.5
    """Points this near to the middle of a segment, in strides of their level, are positive."""
    ends_weight: Factor = 1.0
    """Weight of the loss of the ends beside that of the classes."""
    label_smoothing: BelowOne = 0.0
    """Share of each class target that is spread over all classes."""


@dataclass(frozen=True)
class SuppressionSettings:
    """How overlapping segments of a video are thinned out."""

    method: Literal["soft", "hard", "none"] = "soft"
    """soft: lower the score of what overlaps a better one; hard: drop it."""
    sigma: Annotated[float, Between(1e-6, 1000)] = 0.5
    """soft: scores are multiplied by exp(-tIoU ** 2 / sigma)."""
    iou: Share = 0.1
    """hard: the tIoU from which a worse one is dropped."""
    vote: Share = 0.7
    """With one class: a kept segment becomes the mean of all of this tIoU with it; 0: none."""
    min_score: Share = 0.001
    """Lower scores are dropped."""
    candidates: Annotated[int, Between(1, 1_000_000)] = 2000
    """Predictions of each level that are looked at."""
    most: Annotated[int, Between(1, 1_000_000)] = 200
    """Segments of a video that remain."""


@dataclass(frozen=True)
class LocalizeOptim(OptimSettings):
    """AdamW as ActionFormer uses it on THUMOS14: 1e-4 at a batch of two, 30 epochs after 5 of warm-up."""

    base_lr: Factor = 0.0128
    """Learning rate for a batch of 256; 0.0128 is 1e-4 for two."""
    min_lr: Factor = 1.28e-6
    betas: Annotated[tuple[float, float], Between(0, 1, below=True)] = (0.9, 0.999)
    clip_grad: Annotated[float, Between(0, 10**9)] = 1.0
    batch_size: Batch = 2
    length: Duration = "35ep"
    warmup: Duration = "5ep"
    ema_decay: BelowOne = 0.999


@dataclass(frozen=True)
class LocalizeRun(RunSettings):
    """Where the run lives and how it is executed."""

    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: Duration = "5ep"


@dataclass(frozen=True)
class LocalizeSettings:
    """`videomae2 localize-train`: temporal detection on features of windows (paper 4.3)."""

    model: LocalizeModel = field(default_factory=LocalizeModel)
    data: LocalizeData = field(default_factory=LocalizeData)
    points: PointSettings = field(default_factory=PointSettings)
    suppression: SuppressionSettings = field(default_factory=SuppressionSettings)
    optim: LocalizeOptim = field(default_factory=LocalizeOptim)
    run: LocalizeRun = field(default_factory=LocalizeRun)
    init: str = ""
    """A localizer to start from: a run, or an ActionFormer checkpoint. Empty: from scratch."""
