"""What this machine has: versions, the word maps of torch as they are found here, and hashes of its noise
tables."""

from __future__ import annotations

from typing import Any

from .errors import InputError
from .provenance import git_commit, processor, versions

# sha256 of the noise tables measured with torch 2.13.0 on x86-64 with AVX-512; another processor's vector
# logarithm may differ in the last place. Laws are always computed from the table measured on the machine at
# hand.
MEASURED: dict[str, str] = {
    "gumbel_max_fp16": "d4fb988a24bebec0cb64dc306ccf75918e3f42f16ba69b1e02b6ba6d698e134a",
    "gumbel_max_bf16": "5d787d20d36c7b067de178ca6470e04a6ab76cf5186f3381b2d9ee012dacf008",
    "gumbel_max_fp32": "faf8214b2f7cedf6f62b16723d3d553862ec0c94d9c548f5e3b3b76f61e46501",
    "exponential_race_fp16": "b3c71f72415747b870f0ebd79d9a6c5eecfb4ad7630282e9ee7ab1c147a82f06",
    "exponential_race_bf16": "fbbeba4f41a9f7b5a15dde481f45a2363f7ebbe847d20d423840a7d9937de4d5",
    "exponential_race_fp32": "514fc4c30cdc3f55ef0da6afe3ee7c6bbb3f0e8dbe437d498803a7dbecbefdcd",
    "mdlm_fp32": "ee124a30b20c465abc38f39bb99670cf69cf23809e974d3ae1c7ff8c3904f40e",
    "d1_fp32": "514fc4c30cdc3f55ef0da6afe3ee7c6bbb3f0e8dbe437d498803a7dbecbefdcd",
    "d1_bf16": "fbbeba4f41a9f7b5a15dde481f45a2363f7ebbe847d20d423840a7d9937de4d5",
    "fast_dllm_fork_fp16": "b3c71f72415747b870f0ebd79d9a6c5eecfb4ad7630282e9ee7ab1c147a82f06",
    "torch_distributions_gumbel_fp32": "41b221f8b5c8bcf9595c5e0dd2e239baadc5302e747d22e88fbe0bec47a8a93f",
    "duo_ar_fp64": "41b221f8b5c8bcf9595c5e0dd2e239baadc5302e747d22e88fbe0bec47a8a93f",
    "torch_gumbel_softmax_fp16": "e1fa8b54b23cd4d1980b12ae3f7809ae3c1e37917f12f87cef94d188c48b4bd3",
    "jax_low_fp32": "8ff06f6ab5bfb47d35be69255ff9f520b88abe00f6fb3ef4f54d7a9cc23db6d5",
    "jax_low_bf16": "aefe8e5374ae6cc3add76542b036f0adc079ddd3c8692db83006e58a8ccd562b",
    "jax_low_fp16": "97a20f72e7cd50890f64445466704b503bbad8b8289c65d37a4215374b812815",
    "jax_high_bf16_0_10_2": "65cf20c8c6b834fc6aff436a88c76726ebedc75888103f0dbda71c625af809ee",
    "tensorflow_gpu": "f764b9be43abdc647bd755cb1ee31a685938e59562137f81edf26f5080d5a6de",
    "candle": "d2b11710252eda8294e0cd90544e38bf0440e78062cfadd7dc297c7c14f5cfd5",
    "tl_rand": "54ef11d8690e4a58c48a3cb7e1d8a2cf72277ab6ffbe0a1ddeeb4910ed274a5c",
    "tl_rand_flipped": "9c06a1ae89736e887357310f13de43e25e7c11df831da2ca54d5dca091631f18",
    "vllm_murmur32": "94d71db0dc30a8c01ba80ad065f6570df80585bdb930c033c93eaa435af66b35",
    "vllm_diffusion_gemma": "55ae01075ad2869f7c2f66bf16a215a04341d2e11e7cf24a5a9dc5c8d1ceb90e",
    "torch_gumbel_softmax_cuda_fp32": "ee9ec42973bdd0b5c54f7def498a5785903859bf986a6487262ad54bcf39c2fe",
    "torch_cuda_race_fp32": "425b8bb6bab94685cc690fcd12742560d63e0d0964ed0333613936102e0764e3",
    "torch_compiled_race_fp32": "52e8e170b6b474e635f94bacf727886ac809da32f3b831589758e8f5a496aad2",
    "torch_compiled_gumbel_fp32": "3118a5455d6a58d03a256f3e067e572acb74c85d4d70f005c44569f6871c8986",
    "flashinfer_logits": "3f01331eaef5b87cabbfcc8b74592a9dd07597596133e11f5207981ccc3e2fc8",
    "flashsampling_cuda": "51253a34226e871ba1d9390b97fd15633409d6aefd22058cbf46f0a45d7fd689",
    "cupy_gumbel_fp32": "51253a34226e871ba1d9390b97fd15633409d6aefd22058cbf46f0a45d7fd689",
    "aiter_rocm": "e6858e90c4df56c96dc2738210b0665dee5521374c82838cfff3ca1cd5047ad7",
}


def checks() -> list[dict[str, Any]]:
    """One row per fact: versions, processor and its vector capability, commit, the word map that each library
    call is found to take here, and the hash of each noise table (those of 31- and 32-bit words, tens of
    millions of values, are left to the tests).

    A hash that "differs" is information: laws are computed from this machine's table. A call whose word map
    is unknown is "unusable": it still draws, and has no exact law."""
    import torch

    from .uniforms.agreement import short
    from .uniforms.measured import confirmations

    rows: list[dict[str, Any]] = [
        {"what": name, "value": version, "state": "ok" if version != "not installed" else "missing"}
        for name, version in versions().items()
    ]
    rows.append({"what": "processor", "value": processor(), "state": "ok"})
    rows.append({"what": "vector capability", "value": torch.backends.cpu.get_cpu_capability(), "state": "ok"})
    rows.append({"what": "commit", "value": git_commit() or "not a checkout", "state": "ok"})
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for op, dtype, found, agrees in confirmations(device):
            state = "confirmed" if agrees else "unusable"
            rows.append({"what": f"{op} {short(dtype)} on {device}", "value": found, "state": state})
    return rows + hashes()


def hashes() -> list[dict[str, Any]]:
    """The first digits of each noise table's sha256, beside those measured with torch 2.13 on x86-64 with
    AVX-512."""
    from .samplers import SAMPLERS, UniformSampler

    rows = []
    for name, sampler in SAMPLERS.items():
        if (
            isinstance(sampler, UniformSampler)
            and sampler.source.enumerable
            and sampler.source.bits not in (31, 32)
        ):
            try:
                digest = sampler.noise_atoms().sha256()
            except InputError as error:
                rows.append({"what": f"noise atoms of {name}", "value": str(error), "state": "unusable"})
                continue
            state = "as stored" if MEASURED.get(name) == digest else "differs"
            rows.append({"what": f"noise atoms of {name}", "value": digest[:16], "state": state})
    return rows
