"""Is this machine's arithmetic the one our tables were measured with?"""

from __future__ import annotations

from typing import Any

from .provenance import git_commit, processor, versions

# sha256 of the noise tables measured with torch 2.13.0 on x86-64 with AVX-512; another processor's vector logarithm may
# differ in the last place. Laws are always computed from the table measured on the machine at hand.
MEASURED: dict[str, str] = {
    "gumbel_max_fp16": "d4fb988a24bebec0cb64dc306ccf75918e3f42f16ba69b1e02b6ba6d698e134a",
    "gumbel_max_bf16": "5d787d20d36c7b067de178ca6470e04a6ab76cf5186f3381b2d9ee012dacf008",
    "gumbel_max_fp32": "faf8214b2f7cedf6f62b16723d3d553862ec0c94d9c548f5e3b3b76f61e46501",
    "exponential_race_fp16": "b3c71f72415747b870f0ebd79d9a6c5eecfb4ad7630282e9ee7ab1c147a82f06",
    "exponential_race_bf16": "fbbeba4f41a9f7b5a15dde481f45a2363f7ebbe847d20d423840a7d9937de4d5",
    "exponential_race_fp32": "514fc4c30cdc3f55ef0da6afe3ee7c6bbb3f0e8dbe437d498803a7dbecbefdcd",
    "mdlm_fp32": "ee124a30b20c465abc38f39bb99670cf69cf23809e974d3ae1c7ff8c3904f40e",
}


def checks() -> list[dict[str, Any]]:
    """One row per fact: versions, processor, commit, and the hash of each enumerable noise table."""
    rows: list[dict[str, Any]] = [
        {"what": name, "value": version, "state": "ok" if version != "not installed" else "missing"}
        for name, version in versions().items()
    ]
    rows.append({"what": "processor", "value": processor(), "state": "ok"})
    rows.append({"what": "commit", "value": git_commit() or "not a checkout", "state": "ok"})
    from .samplers import SAMPLERS, UniformSampler

    for name, sampler in SAMPLERS.items():
        if isinstance(sampler, UniformSampler) and sampler.source.enumerable:
            digest = sampler.noise_atoms().sha256()
            state = "ok" if MEASURED.get(name) == digest else "differs"
            rows.append({"what": f"noise atoms of {name}", "value": digest[:16], "state": state})
    return rows
