"""Reading results back: what is missing is named, and a hash stays a hash."""

import pandas as pd
import pytest

from precision_lab.errors import InputError
from precision_lab.result import Result, load_result, with_committed_run


class TestLoadResult:
    @pytest.mark.parametrize("column", ["weights", "logits", "digest"])
    def test_a_hash_of_digits_is_no_number(self, tmp_path, column):
        Result("r", pd.DataFrame([{column: "012345678901", "x": 1.5}]), {"verdict": "yes"}).save(tmp_path)
        again = load_result(tmp_path, "r")
        assert again.frame[column].tolist() == ["012345678901"]
        assert again.frame.x.tolist() == [1.5]
        assert again.manifest == {"verdict": "yes"}

    @pytest.mark.parametrize("missing", ["r.csv", "r.json"])
    def test_what_is_missing_is_named(self, tmp_path, missing):
        Result("r", pd.DataFrame([{"x": 1}]), {}).save(tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(InputError, match=missing):
            load_result(tmp_path, "r")


class TestWithCommittedRun:
    """Rows of a fresh run beside those of the committed one."""

    FRESH = pd.DataFrame([{"k": 1, "x": 0.5}, {"k": 2, "x": 0.25}])

    def committed(self, folder, seed, ks=(2, 3)):
        frame = pd.DataFrame([{"k": k, "x": 1.0 / k} for k in ks])
        Result("r", frame, {"seed": seed}).save(folder)

    def test_nothing_is_committed(self, tmp_path):
        found = with_committed_run(self.FRESH, 7, ["k"], tmp_path, "r")
        assert found.to_dict("list") == {"k": [1, 2], "x": [0.5, 0.25], "run_seed": [7, 7]}

    def test_rows_of_both_are_taken_once_and_the_fresh_one_is_kept(self, tmp_path):
        self.committed(tmp_path, seed=0)
        found = with_committed_run(self.FRESH, 0, ["k"], tmp_path, "r")
        assert found.k.tolist() == [1, 2, 3]
        assert found.x.tolist()[:2] == [0.5, 0.25]

    def test_another_seed_gives_other_numbers_and_both_count(self, tmp_path):
        self.committed(tmp_path, seed=0)
        found = with_committed_run(self.FRESH, 1, ["k"], tmp_path, "r")
        assert found.k.tolist() == [1, 2, 2, 3]
        assert found.run_seed.tolist() == [1, 1, 0, 0]
