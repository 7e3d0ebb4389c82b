"""Published systems that generate text on the board of configuration ``kv260``: figures measured on hardware by their authors.

Bytes a token are weights, head and cached positions as the system stores them. Where a source does not state them they are
computed from the sizes of the model and the stated formats, which ``bytes_from`` says. Nothing here was measured again.
"""

from dataclasses import dataclass

__all__ = ["SYSTEMS", "System"]


@dataclass(frozen=True, kw_only=True)
class System:
    """One figure of one system.

    Parameters
    ----------
    name, model : str
        The system and what it runs.
    position : int
        Positions before the token; 0 where the source says no more than a short context, or the highest of its rates.
    shape : str or None
        The shape of ``gen/shapes.py`` that is the same model.
    decode_tokens_per_s : float
        One sequence.
    weights : int or None
        Weights that a token is multiplied with, head included.
    bytes_per_token : int or None
        What a token has to read.
    prompt_tokens, first_token_s : int and float, or None
        A prompt, and the time until its first token.
    source, bytes_from : str
        Where the rate and the bytes come from.
    """

    name: str
    model: str
    position: int
    shape: str | None = None
    decode_tokens_per_s: float
    weights: int | None = None
    bytes_per_token: int | None = None
    prompt_tokens: int | None = None
    first_token_s: float | None = None
    source: str
    bytes_from: str = ""


_BITNET_073B = 679_477_248 + 49_155_072     # layers, head
_BITNET_2B4T = 2_084_044_800 + 328_335_360
_TELLME_BYTES = 175_279_104 + 49_155_072    # layers as its source packs them, head of one byte a weight
_TELLME_CACHE = 147_456                     # a position: K and V of 24 layers, 1,536 binary16 each
_KV260_BYTES = 417_546_240 + 65_667_072     # layers and ternary head of bitnet-kv260
_KV260_CACHE = 39_360                       # a position: 30 layers of 1,312 bytes
_KV260_SOURCE = "github.com/MerlijnW70/bitnet-kv260, docs/measurements.md"

SYSTEMS = (
    System(name="TeLLMe", model="BitNet 0.73B", shape="bitnet-0.73b", position=1024, decode_tokens_per_s=9.0,
           weights=_BITNET_073B, bytes_per_token=_TELLME_BYTES + 1024 * _TELLME_CACHE, prompt_tokens=128, first_token_s=1.15,
           source="arXiv 2504.16266, abstract (up to 9 tokens/s over contexts of 1,024)",
           bytes_from="assumed: packed as TeLLMe v2, at 1,024 positions"),
    System(name="TeLLMe v2", model="BitNet 0.73B", shape="bitnet-0.73b", position=0, decode_tokens_per_s=25.0,
           weights=_BITNET_073B, bytes_per_token=_TELLME_BYTES, prompt_tokens=128, first_token_s=0.96,
           source="arXiv 2510.15926, abstract (up to 25 tokens/s)",
           bytes_from="computed from the sizes in its source, config.hpp; head of one byte a weight"),
    System(name="PD-Swap", model="BitNet 0.73B", shape="bitnet-0.73b", position=0, decode_tokens_per_s=27.0,
           weights=_BITNET_073B, bytes_per_token=_TELLME_BYTES,
           source="arXiv 2512.11550, abstract (up to 27 tokens/s)", bytes_from="assumed: packed as TeLLMe v2"),
    System(name="bitnet-kv260 (attention on processor)", model="BitNet 2B4T", shape="bitnet-2b4t", position=0,
           decode_tokens_per_s=16.78, weights=_BITNET_2B4T, bytes_per_token=_KV260_BYTES, source=_KV260_SOURCE,
           bytes_from="the same page"),
    System(name="bitnet-kv260 (attention in fabric)", model="BitNet 2B4T", shape="bitnet-2b4t", position=250,
           decode_tokens_per_s=18.57, weights=_BITNET_2B4T, bytes_per_token=_KV260_BYTES + 250 * _KV260_CACHE,
           source=_KV260_SOURCE, bytes_from="the same page; cache of 1,312 bytes a layer and position"),
    System(name="bitnet-kv260 (attention in fabric)", model="BitNet 2B4T", shape="bitnet-2b4t", position=1000,
           decode_tokens_per_s=15.4, weights=_BITNET_2B4T, bytes_per_token=_KV260_BYTES + 1000 * _KV260_CACHE,
           source=_KV260_SOURCE, bytes_from="the same page; cache of 1,312 bytes a layer and position"),
    System(name="bitnet.cpp (processor of the board)", model="BitNet 2B4T", shape="bitnet-2b4t", position=0,
           decode_tokens_per_s=2.77, source=_KV260_SOURCE),
    System(name="llama-fpga", model="LLaMA2-7B, 4 bits", position=0, decode_tokens_per_s=5.0, weights=6_607_077_376,
           bytes_per_token=3249 << 20, source="arXiv 2502.10659, abstract (around 5 tokens/s, 85 % of its bandwidth limit)",
           bytes_from="3,249 MiB a pass, as quoted by others"),
    System(name="Hummingbird", model="LLaMA3-8B, 4 bits", position=0, decode_tokens_per_s=4.8, weights=7_504_658_432,
           bytes_per_token=3690 << 20, source="arXiv 2507.03308 (4.8 tokens/s, 93 to 94 % of the bandwidth)",
           bytes_from="3,690 MiB a pass, as quoted by others; gives more than its authors state"),
)
