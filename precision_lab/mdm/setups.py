"""Published set-ups of discrete diffusion as data: how each draws a token, at how many steps, in which dtype.

Read in public sources in November 2026: repository, file and commit of each stand beside it. ``steps`` and
``pipeline`` are the defaults of the code or the values of its own scripts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..samplers import SAMPLERS, Sampler, torch_multinomial

# Dream draws by torch.multinomial in the network's bfloat16; its law is that of the CPU's race in bfloat16.
MULTINOMIAL_BF16 = torch_multinomial("bf16")
GREEDY = "temperature=0"


@dataclass(frozen=True)
class Setup:
    """``race``: in every step each token races the mask, or the token that stands there; else the places are
    chosen first, by coins or by confidence, and a token is one draw. ``published``: name of the sampler;
    ``float32`` and ``bfloat16``: the nearest
    recipe of ours with noise of that precision. ``pipeline``: what stands
    between logits and draw, "" for nothing, ``temperature=0`` for no draw at all. ``stored``: the dtype
    through which the probabilities pass before the race. ``length``: tokens of a text or of a block, None
    where the checkpoint says it. Schedules are linear: a step unmasks with r = 1 / (N t), t the masked share.
    """

    name: str
    source: str
    vocab: int
    length: int | None
    steps: int
    race: bool
    published: str
    float32: str
    bfloat16: str
    pipeline: str = ""
    stored: str = ""

    @property
    def greedy(self) -> bool:
        """Whether the published default makes no random draw of a token."""
        return self.pipeline == GREEDY


def sampler_of(name: str) -> Sampler:
    """A sampler of the registry, or Dream's. KeyError for another name."""
    return MULTINOMIAL_BF16 if name == MULTINOMIAL_BF16.name else SAMPLERS[name]


_MDLM = {"float32": "mdlm_fp32", "bfloat16": "gumbel_max_bf16"}
_LLADA = {"float32": "d1_fp32", "bfloat16": "d1_bf16"}
_MULTINOMIAL = {"float32": "torch_cuda_race_fp32", "bfloat16": MULTINOMIAL_BF16.name}

SETUPS = (
    Setup(
        "MDLM",
        "kuleshov-group/mdlm diffusion.py _ddpm_update, README (c112c52)",
        vocab=50_258,
        length=1024,
        steps=1000,
        race=True,
        published="mdlm_fp32",
        **_MDLM,
    ),
    Setup(
        "MDLM, 10,000 steps",
        "kuleshov-group/mdlm README, local checkpoint (c112c52)",
        vocab=50_258,
        length=1024,
        steps=10_000,
        race=True,
        published="mdlm_fp32",
        **_MDLM,
    ),
    Setup(
        "SEDD",
        "louaaron/Score-Entropy-Discrete-Diffusion graph_lib.py sample_rate, run_sample.py (0605786)",
        vocab=50_258,
        length=1024,
        steps=1024,
        race=True,
        published="mdlm_fp32",
        **_MDLM,
    ),
    Setup(
        "RADD, direct",
        "ML-GSAI/RADD sampling.py direct_sample, run_sample.py (60b772d): probabilities kept in float16",
        vocab=50_258,
        length=1024,
        steps=1024,
        race=True,
        published="mdlm_fp32",
        stored="fp16",
        **_MDLM,
    ),
    Setup(
        "ReMDM",
        "kuleshov-group/remdm diffusion.py _sample_categorical, scripts/remdm-loop.sh (f830d65)",
        vocab=50_258,
        length=1024,
        steps=1024,
        race=True,
        published="remdm_fp64",
        pipeline="top_p=0.9",
        **_MDLM,
    ),
    Setup(
        "MDLM in Duo's code",
        "s-sahoo/duo trainer_base.py sample_categorical, configs/config.yaml use_float64 (7c9b498)",
        vocab=50_258,
        length=1024,
        steps=1000,
        race=True,
        published="remdm_fp64",
        **_MDLM,
    ),
    Setup(
        "Duo",
        "s-sahoo/duo algo.py _posterior_from_x0, configs/config.yaml use_float64 (7c9b498): races the token there",
        vocab=50_257,
        length=1024,
        steps=1000,
        race=True,
        published="remdm_fp64",
        **_MDLM,
    ),
    Setup(
        "BD3-LMs",
        "kuleshov-group/bd3lms diffusion.py _ddpm_caching_update, scripts/gen_ppl (1c3e8f4): first hitting",
        vocab=50_258,
        length=16,
        steps=5000,
        race=False,
        published="remdm_fp64",
        pipeline="top_p=0.9",
        **_MDLM,
    ),
    Setup(
        "VQ-Diffusion in diffusers",
        "huggingface/diffusers scheduling_vq_diffusion.py gumbel_noised (58eb52c)",
        vocab=4096,
        length=1024,
        steps=100,
        race=True,
        published="gumbel_max_fp32",
        float32="gumbel_max_fp32",
        bfloat16="gumbel_max_bf16",
    ),
    Setup(
        "LLaDA-8B",
        "ML-GSAI/LLaDA generate.py (b7e6c35): greedy by default",
        vocab=126_464,
        length=128,
        steps=128,
        race=False,
        published="llada_fp64",
        pipeline=GREEDY,
        **_LLADA,
    ),
    Setup(
        "LLaDA-8B, temperature 1",
        "ML-GSAI/LLaDA generate.py add_gumbel_noise (b7e6c35)",
        vocab=126_464,
        length=128,
        steps=128,
        race=False,
        published="llada_fp64",
        **_LLADA,
    ),
    Setup(
        "Fast-dLLM",
        "NVlabs/Fast-dLLM llada/generate.py (24cc59e): greedy by default, else LLaDA's",
        vocab=126_464,
        length=32,
        steps=128,
        race=False,
        published="llada_fp64",
        pipeline=GREEDY,
        **_LLADA,
    ),
    Setup(
        "d1, rollouts",
        "dllm-reasoning/d1 diffu-grpo/diffu_grpo_trainer.py add_gumbel_noise, temperature 0.9 (837888f)",
        vocab=126_464,
        length=32,
        steps=128,
        race=False,
        published="d1_bf16",
        pipeline="temperature=0.9",
        **_LLADA,
    ),
    Setup(
        "Dream-7B",
        "DreamLM/Dream README (fac0a7f); sample_tokens as in NVlabs/Fast-dLLM dream/model (24cc59e)",
        vocab=152_064,
        length=512,
        steps=512,
        race=False,
        published=MULTINOMIAL_BF16.name,
        pipeline="temperature=0.2 > top_p=0.95",
        **_MULTINOMIAL,
    ),
    Setup(
        "LLaDA 2 in diffusers",
        "huggingface/diffusers scheduling_block_refinement.py, pipeline_llada2.py (58eb52c): greedy by default",
        vocab=157_184,
        length=32,
        steps=32,
        race=False,
        published="torch_cuda_race_fp32",
        pipeline=GREEDY,
        **_MULTINOMIAL,
    ),
    Setup(
        "DiffusionGemma in diffusers",
        "huggingface/diffusers scheduling_entropy_bound.py, first step's temperature (58eb52c)",
        vocab=262_144,
        length=None,
        steps=32,
        race=False,
        published="torch_cuda_race_fp32",
        pipeline="temperature=0.8",
        **_MULTINOMIAL,
    ),
    Setup(
        "DiffusionGemma in vLLM",
        "vllm-project/vllm vllm/model_executor/models/diffusion_gemma_sampler.py (0.33.0)",
        vocab=262_144,
        length=None,
        steps=32,
        race=False,
        published="vllm_diffusion_gemma",
        float32="vllm_diffusion_gemma",
        bfloat16="gumbel_max_bf16",
        pipeline="temperature=0.8",
    ),
)
