"""Is this machine's arithmetic the one our tables were measured with?"""

from __future__ import annotations

from typing import Any

from .provenance import git_commit, processor, versions

# sha256 of the noise tables measured with torch 2.13.0 on x86-64 with AVX-512; another processor's vector logarithm may
# differ in the last place. Laws are always computed from the table measured on the machine at hand.
MEASURED: dict[str, str] = {}


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
            state = "ok" if MEASURED.get(name) == digest else "measured here"
            rows.append({"what": f"noise atoms of {name}", "value": digest[:16], "state": state})
    return rows
