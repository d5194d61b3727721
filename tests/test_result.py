"""Reading results back: what is missing is named, and a hash stays a hash."""

import pandas as pd
import pytest

from precision_lab.errors import InputError
from precision_lab.result import Result, load_result


class TestLoadResult:
    def test_a_hash_of_digits_is_no_number(self, tmp_path):
        Result("r", pd.DataFrame([{"weights": "012345678901", "x": 1.5}]), {"verdict": "yes"}).save(tmp_path)
        again = load_result(tmp_path, "r")
        assert again.frame.weights.tolist() == ["012345678901"]
        assert again.frame.x.tolist() == [1.5]
        assert again.manifest == {"verdict": "yes"}

    @pytest.mark.parametrize("missing", ["r.csv", "r.json"])
    def test_what_is_missing_is_named(self, tmp_path, missing):
        Result("r", pd.DataFrame([{"x": 1}]), {}).save(tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(InputError, match=missing):
            load_result(tmp_path, "r")
