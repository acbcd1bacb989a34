"""Distances to a checkpoint's training distribution against independent references, and the file they travel in."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.domain import (
    DOMAIN_FILE,
    FLAGGED,
    WIDTH,
    Domain,
    Signs,
    fit_domain,
    half_whitened,
    moments,
    neighbour_distance,
    principal_directions,
    projected,
    quantile_of,
    residual_norm,
    unit_rows,
)


def test_neighbour_distance_of_known_angles() -> None:
    bank = unit_rows(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    # Of (1, 1): cosines 1/sqrt(2), 1/sqrt(2), -1/sqrt(2).
    values = np.array([[1.0, 1.0]])
    half = 1 / np.sqrt(2)
    assert neighbour_distance(values, bank, neighbours=2)[0] == pytest.approx(1 - half, abs=1e-12)
    assert neighbour_distance(values, bank, neighbours=3)[0] == pytest.approx(1 - half / 3, abs=1e-12)
    assert neighbour_distance(values, bank, neighbours=9)[0] == pytest.approx(1 - half / 3, abs=1e-12)


def test_residual_is_what_a_least_squares_fit_leaves() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(7, 3)))[0].T
    values = rng.normal(size=(4, 7))
    expected = [np.sqrt(np.linalg.lstsq(basis.T, row, rcond=None)[1][0]) for row in values]
    assert residual_norm(values, basis) == pytest.approx(expected, abs=1e-12)


def test_principal_directions_hold_the_asked_variance() -> None:
    # Variances 90, 9 and 1: two directions hold 99 %.
    values = np.diag(np.sqrt([90.0, 9.0, 1.0]))
    values = np.concatenate([values, -values])
    directions = principal_directions(values, 0.99)
    assert np.abs(directions) == pytest.approx(np.eye(3)[:2], abs=1e-12)
    assert len(principal_directions(values, 0.995)) == 3


def test_half_whitening_brings_every_direction_to_the_root_of_its_deviation() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=(400, 3)) * [9.0, 4.0, 1.0]
    values -= values.mean(axis=0)
    directions = principal_directions(values, 1.0)
    before, after = (values @ directions.T).std(axis=0), (values @ half_whitened(values, directions).T).std(axis=0)
    assert after == pytest.approx(np.sqrt(before), rel=1e-9)
    # A direction without any variance stays as it is.
    assert half_whitened(values * [1, 1, 0], np.eye(3))[2].tolist() == [0.0, 0.0, 1.0]


def test_both_distances_together_flag_the_share_that_is_promised(domain: Domain) -> None:
    rng = np.random.default_rng(8)
    read = domain.read(draw_signs(4000, rng))
    assert 0.02 < np.mean([one.out_of_domain for one in read]) < 0.11
    # On the reference videos themselves it is exactly so, however the two distances hang together.
    places = [quantile_of(np.asarray(v), np.sort(v)) for v in (domain.appearance_reference, domain.state_reference)]
    assert np.mean(np.maximum(*places) > domain.limit) == pytest.approx(FLAGGED, abs=0.011)


def test_a_constant_feature_is_not_divided_by_nothing() -> None:
    mean, std = moments(np.array([[5.0, 1.0], [5.0, 3.0]]))
    assert (mean.tolist(), std.tolist()) == ([5.0, 2.0], [1.0, 1.0])


def test_quantiles_count_nearer_references() -> None:
    assert quantile_of(np.array([0.5, 1.0, 3.5]), np.arange(5.0)).tolist() == [0.2, 0.2, 0.8]


def test_projection_keeps_distances_and_narrow_rows() -> None:
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(6, 8 * WIDTH)).astype(np.float32)
    narrow = projected(wide)
    assert narrow.shape == (6, WIDTH)
    true = np.linalg.norm(wide[:, None] - wide[None], axis=-1)[np.triu_indices(6, 1)]
    kept = np.linalg.norm(narrow[:, None] - narrow[None], axis=-1)[np.triu_indices(6, 1)]
    assert np.abs(kept / true - 1).max() < 0.15
    assert projected(wide[:, :9]).tolist() == wide[:, :9].tolist()
    # The directions are part of the file format: a file written with others could not be read.
    assert projected(np.eye(1, WIDTH + 1, dtype=np.float32))[0, :6].tolist() == pytest.approx(
        np.array([-1, -1, 1, 1, 1, -1]) / np.sqrt(WIDTH), abs=1e-7
    )


def draw_signs(count: int, rng: np.random.Generator, *, shift: float = 0.0, off_plane: float = 0.0) -> list[Signs]:
    """Appearances and states of two free dimensions each, and a little beside them; twelve and ten numbers wide."""
    looks = rng.normal(size=(count, 2)) @ np.repeat(np.eye(2), 6, axis=1) + 0.2 * rng.normal(size=(count, 12))
    states = rng.normal(size=(count, 2)) @ np.eye(2, 10) + 0.01 * rng.normal(size=(count, 10))
    states[:, 5] += off_plane
    looks[:, 4] += shift
    return [Signs(a, s) for a, s in zip(looks.astype(np.float32), states.astype(np.float32), strict=True)]


@pytest.fixture(scope="module")
def domain() -> Domain:
    rng = np.random.default_rng(2)
    return fit_domain(draw_signs(200, rng), draw_signs(100, rng))


def test_each_distance_finds_what_the_other_is_blind_to(domain: Domain) -> None:
    rng = np.random.default_rng(3)
    usual = domain.read(draw_signs(200, rng))
    assert np.mean([one.out_of_domain for one in usual]) < 0.15
    looks = domain.read(draw_signs(50, rng, shift=9.0))
    far = [one for one in looks if one.appearance > 0.97]
    assert len(far) > 45 and all(one.out_of_domain and "frames look unlike" in one.reason for one in far)
    states = domain.read(draw_signs(50, rng, off_plane=1.0))
    assert all(one.out_of_domain and one.state == 1.0 for one in states)
    assert "into a state that training did not" in states[0].reason
    assert all(not one.reason for one in usual if not one.out_of_domain)
    assert domain.read([]) == []


def test_a_domain_travels_with_its_checkpoint(domain: Domain, tmp_path) -> None:
    signs = draw_signs(5, np.random.default_rng(4))
    assert Domain.load(tmp_path) is None
    path = domain.save(tmp_path)
    assert path.name == DOMAIN_FILE and path.stat().st_size < 100_000
    loaded = Domain.load(tmp_path)
    assert loaded is not None and loaded.read(signs) == domain.read(signs)


def test_a_damaged_file_is_named(domain: Domain, tmp_path) -> None:
    path = domain.save(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"{DOMAIN_FILE} cannot be read"):
        Domain.load(tmp_path)


def test_a_domain_of_another_checkpoint_is_refused(domain: Domain) -> None:
    with pytest.raises(ValueError, match=r"has 11 numbers.*made from 12.*another checkpoint"):
        domain.read([Signs(np.zeros(11, np.float32), np.zeros(10, np.float32))])


def test_too_few_videos_and_broken_features_are_refused() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(ValueError, match="49 training videos are too few"):
        fit_domain(draw_signs(49, rng), draw_signs(30, rng))
    broken = draw_signs(60, rng)
    broken[7].state[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_domain(broken, draw_signs(30, rng))
