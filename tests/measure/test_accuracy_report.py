import numpy as np
import pytest

from edge_vit.measure.accuracy_report import sqnr_db


def test_sqnr_without_noise_or_signal():
    assert sqnr_db(5.0, 0.0) is None
    assert sqnr_db(5.0, 0.05) == pytest.approx(20)
    assert sqnr_db(0.0, 1.0) == -np.inf
