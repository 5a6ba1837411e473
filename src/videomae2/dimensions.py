"""The numbers that make a network what it is, for those who reckon with networks without building one."""

from dataclasses import dataclass

from videomae2.geometry import TokenGrid


@dataclass(frozen=True)
class Tower:
    """A stack of transformer blocks: pre-norm, no key bias, one linear layer for queries, keys and values."""

    width: int
    depth: int
    num_heads: int
    mlp_width: int

    @property
    def block_matrices(self) -> int:
        """Entries of one block's weight matrices."""
        return 4 * self.width**2 + 2 * self.width * self.mlp_width

    @property
    def block_parameters(self) -> int:
        """All of one block: matrices, two norms, biases of query, value, projection and MLP."""
        return self.block_matrices + 4 * self.width + 3 * self.width + self.mlp_width + self.width

    @property
    def norm_parameters(self) -> int:
        """Of one LayerNorm."""
        return 2 * self.width


@dataclass(frozen=True)
class Network:
    """An encoder over `grid`, with a decoder (pre-training) or with a classifier of `num_classes`."""

    grid: TokenGrid
    encoder: Tower
    decoder: Tower | None = None
    num_classes: int = 0

    @property
    def embed_matrix(self) -> int:
        """Entries of the cube embedding."""
        return self.grid.cube_values * self.encoder.width

    @property
    def bridge_matrix(self) -> int:
        """Entries of the projection from encoder to decoder; 0 without a decoder."""
        return self.encoder.width * self.decoder.width if self.decoder else 0

    @property
    def output_matrix(self) -> int:
        """Entries of the last layer: the decoder's, to pixels, or the classifier's."""
        return (
            self.decoder.width * self.grid.cube_values
            if self.decoder
            else self.encoder.width * self.num_classes
        )
