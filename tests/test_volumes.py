"""From NIfTI files to slices and back: orientation, resampling, intensities, files that are not what they should be."""

import gzip
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqseg import resampling, volumes
from vqseg.errors import InputError
from vqseg.importers.writer import to_bytes
from vqseg.intake import Channel, Intake, percentiles, sample, to_levels
from vqseg.manifest import Grid
from vqseg.nifti import PLACING, case_name, cases, probe, require_same_place, voxels, write_labels, write_probabilities

AXES = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    whole = np.eye(3)
    for axis, angle in enumerate(angles):
        one, two = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[[one, one, two, two], [one, two, one, two]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        whole = whole @ turn
    return whole


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


# --- any header ----------------------------------------------------------------------------------


@st.composite
def images(draw: st.DrawFn) -> nibabel.Nifti1Image:
    """A small volume with any header: axes, flips, oblique and sheared affines, codes, types, slopes, units."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    zooms = draw(st.tuples(*[st.floats(0.0625, 12, width=32)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(draw(st.sampled_from(AXES)))] * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    if draw(st.booleans()):
        affine[:3, :3] = rotation(draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))) @ affine[:3, :3]
    sheared = draw(st.booleans())
    if sheared:
        affine[0, 1] += draw(st.floats(-0.4, 0.4))
    affine[:3, :3] *= zooms
    affine[:3, 3] = draw(st.tuples(*[st.floats(-900, 900, width=32)] * 3))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2"]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 6, shape).astype(dtype)
    kind = draw(st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]))
    header = kind.header_class(endianness=draw(st.sampled_from("<>")))
    image = kind(values, None, header)
    image.set_data_dtype(dtype)
    forms = draw(st.sampled_from(["s", "q", "both", "none"]))
    image.header.set_zooms(zooms[: len(shape)])
    if forms in ("s", "both") or sheared:
        image.header.set_sform(affine, draw(st.integers(1, 4)))
    if forms in ("q", "both") and not sheared:
        image.header.set_qform(affine, draw(st.integers(1, 4)))
    if draw(st.booleans()):
        image.header.set_xyzt_units(draw(st.sampled_from(["mm", "meter", "micron", "unknown"])), "sec")
    if draw(st.booleans()):
        image.header.set_slope_inter(*draw(st.sampled_from([(1.0, 0.0), (2.0, 0.0), (1.0, -3.0), (0.5, 4.0)])))
    return kind.from_bytes(image.to_bytes())


@settings(max_examples=150, deadline=None)
@given(
    images(),
    st.sampled_from([0, 1, 2]),
    st.sampled_from(["canonical", "file"]),
    st.sampled_from([".nii", ".nii.gz"]),
)
def test_any_header_comes_back_exactly(image: nibabel.Nifti1Image, axis: int, orientation: str, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / f"in{suffix}", Path(folder) / f"out{suffix}"
        content = image.to_bytes()
        path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
        source = probe(path)
        stored = np.asanyarray(nibabel.load(path).dataobj)
        np.testing.assert_array_equal(voxels(source).reshape(stored.shape), stored)
        labels = (np.abs(stored).astype(np.int64) % 7).astype(np.uint8)
        grid = volumes.grid_of(source, axis, orientation=orientation)  # type: ignore[arg-type]
        grid = Grid.model_validate_json(grid.model_dump_json())
        slices = volumes.forward(labels.reshape((*labels.shape, 1)[:3]), grid)
        assert sorted(slices.shape) == sorted((*stored.shape, 1)[:3])
        back = volumes.inverse(slices, grid)
        np.testing.assert_array_equal(back, labels)
        write_labels(out, back, grid)
        written = nibabel.load(out)
        assert written.get_data_dtype() == np.uint8 and written.shape == stored.shape
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)
        np.testing.assert_allclose(written.affine, image.affine, rtol=1e-6, atol=1e-6)
        if isinstance(image, nibabel.Nifti1Image) and not isinstance(image, nibabel.Nifti2Image):
            np.testing.assert_array_equal(written.affine, image.affine)
            for field in PLACING:
                np.testing.assert_array_equal(written.header[field], image.header[field], err_msg=field)
        require_same_place(probe(out), source, "its image")


@settings(max_examples=50, deadline=None)
@given(images(), st.sampled_from([0, 1, 2]), st.floats(0.05, 20))
def test_any_resampling_comes_back_on_the_grid(image: nibabel.Nifti1Image, axis: int, spacing: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.nii"
        path.write_bytes(image.to_bytes())
        source = probe(path)
        if max(source.sides_mm) * 5 / spacing > volumes.MOST_PIXELS:
            return
        grid = volumes.grid_of(source, axis, spacing_mm=spacing)
        labels = (np.abs(voxels(source)).astype(np.int64) % 7).astype(np.uint8)
        slices = volumes.forward(labels, grid, labels=True)
        assert set(np.unique(slices)) <= set(np.unique(labels))
        back = volumes.inverse(slices, grid)
        assert back.shape == image.shape and back.dtype == np.uint8
        rows, columns = ((*image.shape, 1)[place] for place in grid.axes[1:])
        if grid.resampled is None or (grid.resampled[0] >= rows and grid.resampled[1] >= columns):
            np.testing.assert_array_equal(back, labels.reshape(image.shape))
        soft = np.stack([slices == value for value in range(7)], -1).astype(np.float32)
        shares = volumes.inverse(soft, grid)
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_one_line_or_voxels(data: st.DataObject) -> None:
    """Whatever a header holds, the answer is voxels or one line that names the file."""
    content = bytearray(nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)).to_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    packed = data.draw(st.booleans())
    whole = gzip.compress(bytes(content)) if packed else bytes(content)
    whole = whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.nii.gz" if packed else "a.nii")
        path.write_bytes(whole)
        said = ""
        try:
            source = probe(path)
            values = voxels(source)
            volumes.forward(values, volumes.grid_of(source, volumes.coarsest(source)))
        except InputError as error:
            said = str(error)
        assert "\n" not in said
        assert str(path) in said if said else values.shape[:3] == (*source.shape, 1)[:3]


# --- orientation ---------------------------------------------------------------------------------


def test_slices_are_looked_at_as_radiologists_do(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # x to the right, y to the front, z to the head
    source = probe(save(tmp_path / "ras.nii", values))
    axial, coronal, sagittal = (volumes.forward(values, volumes.grid_of(source, axis)) for axis in (2, 1, 0))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((4, 3, 2), (3, 4, 2), (2, 4, 3))
    # Axial: the first slice at the feet; the top row in front; the first column at the patient's right.
    assert axial[0, 0, 0] == values[1, 2, 0] and axial[-1, -1, -1] == values[0, 0, 3]
    # Coronal: the first slice in front; the top row at the head; the first column at the patient's right.
    assert coronal[0, 0, 0] == values[1, 2, 3] and coronal[-1, -1, -1] == values[0, 0, 0]
    # Sagittal: the first slice at the right; the top row at the head; the first column in front.
    assert sagittal[0, 0, 0] == values[1, 2, 3] and sagittal[-1, -1, -1] == values[0, 0, 0]


def test_files_of_one_patient_give_the_same_slices_however_they_are_stored(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 999, (3, 4, 5)).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 5.0, 1.0]))
    seen = []
    for codes in ("RAS", "LPI", "SAR", "PSL"):
        ornt = nibabel.orientations.axcodes2ornt(codes)
        path = tmp_path / f"{codes}.nii.gz"
        nibabel.save(image.as_reoriented(nibabel.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], ornt)), path)
        source = probe(path)
        assert volumes.coarsest(source) == 2
        grid = volumes.grid_of(source, 2)
        assert volumes.spacing_of(source, grid) == (5.0, 2.0, 1.0)
        seen.append(volumes.forward(voxels(source), grid))
    assert all((one == seen[0]).all() for one in seen)


@pytest.mark.parametrize(
    ("shape", "zooms", "axis"),
    [
        ((5, 5, 5), (1, 1, 5), 2),
        ((5, 5, 5), (1, 5, 1), 1),
        ((5, 5, 5), (5, 1, 1), 0),
        ((5, 5, 5), (1, 1, 1), 2),
        ((5, 5, 5), (2, 2, 1), 1),
        ((5, 5, 5), (0.7, 0.7, 0.6999), 2),
        ((1, 9, 9), (1, 1, 1), 0),
        ((9, 1, 9), (3, 1, 1), 1),
        ((9, 1, 1), (1, 1, 1), 2),
    ],
)
def test_slices_lie_across_the_coarsest_spacing(
    tmp_path: Path, shape: tuple[int, int, int], zooms: tuple[float, float, float], axis: int
) -> None:
    path = save(tmp_path / "a.nii", np.zeros(shape, np.uint8), np.diag([*zooms, 1]))
    assert volumes.coarsest(probe(path)) == axis


def test_units_of_space_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([0.001, 0.001, 0.005, 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    source = probe(tmp_path / "a.nii")
    assert volumes.spacing_of(source, volumes.grid_of(source, 2)) == (5.0, 1.0, 1.0)


# --- resampling ----------------------------------------------------------------------------------


def test_linear_weights_by_hand() -> None:
    np.testing.assert_allclose(resampling.linear(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # Twice as large pixels: a triangle two pixels to each side of the center, at the edge what is left of it.
    middle = np.array([0.25, 0.75, 0.75, 0.25]) / 2
    np.testing.assert_allclose(resampling.linear(6, 3)[1], [0, *middle, 0])
    np.testing.assert_allclose(resampling.linear(6, 3)[0], np.array([0.75, 0.75, 0.25, 0, 0, 0]) / 1.75)
    np.testing.assert_array_equal(resampling.nearest(3, 6), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(resampling.nearest(6, 3), [1, 3, 5])


def test_images_keep_constants_ramps_and_channels() -> None:
    volume = np.stack([np.full((2, 8, 9), 7.0), np.tile(np.arange(9.0), (2, 8, 1))], axis=-1)
    made = resampling.resample(volume, (4, 18))
    assert made.shape == (2, 4, 18, 2) and made.dtype == np.float32
    np.testing.assert_allclose(made[..., 0], 7, rtol=1e-6)
    np.testing.assert_allclose(made[0, 0, 2:-2, 1], (np.arange(18)[2:-2] + 0.5) / 2 - 0.5, rtol=1e-5)
    # Stripes of one pixel vanish where pixels double: no aliasing.
    stripes = np.tile(np.arange(32) % 2, (1, 32, 1))
    assert np.ptp(resampling.resample(stripes, (16, 16))[:, :, 2:-2]) < 1e-6


@given(st.integers(1, 300), st.integers(0, 900))
def test_finer_and_back_is_the_identity(length: int, more: int) -> None:
    there, back = resampling.nearest(length, length + more), resampling.nearest(length + more, length)
    np.testing.assert_array_equal(there[back], np.arange(length))


@pytest.mark.parametrize(("factor", "least"), [(1.1, 0.99), (1.25, 0.99), (1.5, 0.99), (2.0, 0.985)])
def test_organs_survive_coarser_pixels(factor: float, least: float) -> None:
    """Of an organ of 12 cm in pixels of 1 mm less than a hundredth is lost; the nearest pixel would lose more."""
    rows, columns = np.mgrid[:256, :200]
    labels = np.zeros((2, 256, 200), np.uint8)
    labels[0][np.hypot(rows - 130.3, columns - 96.8) < 60] = 1
    labels[1][(np.abs(rows - 99.1) < 50) & (np.abs(columns - 101.9) < 60)] = 3
    shape = (round(256 / factor), round(200 / factor))
    losses = []
    for exact in ((False, False), (True, True)):
        small = resampling.resample_labels(labels, shape, exact)
        back = resampling.resample_labels(small, (256, 200), exact)
        assert back.dtype == np.uint8 and set(np.unique(back)) == {0, 1, 3}
        losses.append([1 - dice(back == value, labels == value) for value in (1, 3)])
    assert max(losses[0]) <= 1 - least
    assert losses[0][0] <= losses[1][0]  # the disc; a box may happen to suit the nearest pixels


def test_one_axis_finer_the_other_coarser(tmp_path: Path) -> None:
    source = probe(save(tmp_path / "a.nii", np.zeros((10, 40, 3), np.uint8), np.diag([4.0, 1.0, 9.0, 1.0])))
    grid = volumes.grid_of(source, 2, spacing_mm=2.0)
    assert grid.resampled == (20, 20)
    assert volumes.spacing_of(source, grid) == (9.0, 2.0, 2.0)
    labels = np.zeros((10, 40, 3), np.uint8)
    labels[3:7, 10:30] = 2
    slices = volumes.forward(labels, grid, labels=True)
    assert slices.shape == (3, 20, 20)
    np.testing.assert_array_equal(volumes.inverse(slices, grid), labels)
    assert volumes.grid_of(source, 2, spacing_mm=0.5).resampled == (80, 80)
    with pytest.raises(InputError, match=r"a.nii: slices of 40 x 10 would become 40000 x 40000 pixels at 0.001 mm"):
        volumes.grid_of(source, 2, spacing_mm=0.001)


# --- intensities ---------------------------------------------------------------------------------


def intake(*channels: Channel, bits: int = 8, **options: object) -> Intake:
    return Intake.model_validate({"axis": 2, "channels": channels or (Channel(name="a"),), "bits": bits, **options})


def test_windows_become_channels() -> None:
    values = np.array([[[-2000, -160, 41, 240, 3000]]], np.int16)
    wide, narrow = Channel(name="wide", window=(-160, 240)), Channel(name="narrow", window=(0, 80))
    levels, span = to_levels(values, intake(wide, narrow), "x")
    assert levels.dtype == np.uint8 and levels.shape == (1, 1, 5, 2)
    assert levels[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert levels[0, 0, :, 1].tolist() == [0, 0, 131, 255, 255]
    assert span == (-160, 240)
    levels, _ = to_levels(values, intake(wide, bits=16), "x")
    assert levels.dtype == np.uint16 and levels[0, 0].tolist() == [0, 0, 32931, 65535, 65535]


def test_a_scans_own_extremes_are_the_older_importers_bytes() -> None:
    values = np.random.default_rng(1).normal(0, 50, (3, 70, 700)).astype(np.float32)
    levels, span = to_levels(values, intake(Channel(name="MR", percentiles=(0, 100))), "x")
    expected, before = to_bytes(values, "x")
    np.testing.assert_array_equal(levels, expected)
    assert span == before
    assert to_levels(np.full((1, 2, 2), 5), intake(), "x")[0].max() == 0


def test_percentiles_of_large_arrays_are_of_a_fixed_sample() -> None:
    values = np.random.default_rng(2).normal(0, 1, 400_000)
    assert len(sample(values)) == 100_000
    np.testing.assert_array_equal(sample(values), sample(values.copy()))
    np.testing.assert_allclose(percentiles(values, (0.5, 99.5)), np.percentile(values, (0.5, 99.5)), atol=0.05)
    assert percentiles(values, (0, 100)) == (values.min(), values.max())


def test_values_that_are_no_numbers_are_refused() -> None:
    values = np.ones((1, 2, 2), np.float32)
    values[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="scan.nii: holds values that are not finite"):
        to_levels(values, intake(), "scan.nii")


# --- a new file, treated as the set was ----------------------------------------------------------


def test_take_one_file_of_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 200, (5, 6, 2, 3)).astype(np.uint8)
    path = save(tmp_path / "a.nii.gz", values)
    named = [Channel(name=f"c{place}", source=place, window=(0, 255)) for place in (2, 0, 1)]
    (taken,) = volumes.take([path], intake(*named))
    assert taken.image.shape == (2, 6, 5, 3) and taken.grid.frame is None
    np.testing.assert_array_equal(
        volumes.inverse(np.ascontiguousarray(taken.image[..., 0]), taken.grid), values[..., 2]
    )
    with pytest.raises(InputError, match=r"a.nii.gz: the case has 3 channels, expected 1 \(a\)"):
        volumes.take([path], intake())


def test_take_a_file_per_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    paths = [save(tmp_path / f"a_{place:04d}.nii.gz", one) for place, one in enumerate(values)]
    named = [Channel(name=f"c{place}", source=place, window=(0, 255)) for place in (0, 1)]
    (taken,) = volumes.take(paths, intake(*named, files="each"))
    np.testing.assert_array_equal(taken.image[..., 1], volumes.forward(values[1], taken.grid))
    save(paths[1], values[1], np.diag([1, 1, 1.2, 1]))
    with pytest.raises(InputError, match=r"a_0001.nii.gz: lies up to 0.6 mm away from the case's first channel"):
        volumes.take(paths, intake(*named, files="each"))
    save(paths[1], values[1][:4])
    with pytest.raises(InputError, match=r"a_0001.nii.gz: 4 x 6 x 3 voxels, the case's first channel has 5 x 6 x 3"):
        volumes.take(paths, intake(*named, files="each"))


def test_take_time_points_and_write_them_back(tmp_path: Path) -> None:
    values = np.random.default_rng(5).integers(0, 4, (4, 3, 2, 11)).astype(np.uint8)
    image = nibabel.Nifti1Image(values, np.diag([1, 1, 8, 1]))
    image.header["pixdim"][4] = 0.04
    nibabel.save(image, tmp_path / "cine.nii.gz")
    taken = volumes.take([tmp_path / "cine.nii.gz"], intake(Channel(name="MR", window=(0, 255)), frames="scans"))
    assert [one.grid.frame for one in taken] == list(range(11))
    (fifth,) = volumes.take(
        [tmp_path / "cine.nii.gz"], intake(Channel(name="MR", window=(0, 255)), frames="scans"), frame=4
    )
    np.testing.assert_array_equal(fifth.image, taken[4].image)
    volumes.write_back(tmp_path / "out.nii.gz", [one.image for one in taken], [one.grid for one in taken])
    written = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), values)
    assert written.header["pixdim"][4] == np.float32(0.04)


def test_probabilities_and_many_classes_are_written(tmp_path: Path) -> None:
    source = probe(save(tmp_path / "a.nii", np.zeros((5, 6, 2), np.uint8), np.diag([2.0, 2.0, 7.0, 1.0])))
    grid = volumes.grid_of(source, 2, spacing_mm=1.0)
    shares = np.random.default_rng(6).dirichlet([1, 1, 1], (2, 12, 10)).astype(np.float32)
    volumes.write_back(tmp_path / "p.nii.gz", [shares], [grid])
    written = nibabel.load(tmp_path / "p.nii.gz")
    assert written.shape == (5, 6, 2, 3) and written.get_data_dtype() == np.float32
    np.testing.assert_allclose(np.asanyarray(written.dataobj).sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(written.affine, source.affine)
    labels = np.zeros((5, 6, 2), np.int64)
    labels[0, 0, 0] = 300
    write_labels(tmp_path / "l.nii", labels, grid)
    assert nibabel.load(tmp_path / "l.nii").get_data_dtype() == np.uint16
    flat = probe(save(tmp_path / "flat.nii", np.zeros((5, 6), np.uint8)))
    write_probabilities(tmp_path / "flat-p.nii", np.ones((5, 6, 2)), volumes.grid_of(flat, 2))
    assert nibabel.load(tmp_path / "flat-p.nii").shape == (5, 6, 1, 2)
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_written_files_carry_nothing_of_the_patient(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["descrip"] = b"DOE^JOHN"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    nibabel.save(image, tmp_path / "a.nii")
    grid = volumes.grid_of(probe(tmp_path / "a.nii"), 2)
    write_labels(tmp_path / "b.nii", np.zeros((2, 2, 2), np.uint8), grid)
    assert b"DOE" not in (tmp_path / "b.nii").read_bytes()
    write_labels(tmp_path / "b.nii.gz", np.zeros((2, 2, 2), np.uint8), grid)
    first = (tmp_path / "b.nii.gz").read_bytes()
    write_labels(tmp_path / "b.nii.gz", np.zeros((2, 2, 2), np.uint8), grid)
    assert (tmp_path / "b.nii.gz").read_bytes() == first


# --- files that are not what they should be ------------------------------------------------------


def raw(path: Path, values: np.ndarray, fields: dict[str, object]) -> Path:
    """Write a NIfTI file with header fields as they are, past every check."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    for name, value in fields.items():
        header[name] = value
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4) + values.tobytes(order="F"))
    return path


FLAT = {"sform_code": 1, "srow_x": [1, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 1, 0]}
PARALLEL = {"sform_code": 1, "srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]}
NO_NUMBER = {"sform_code": 1, "srow_x": [np.nan, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sform_code": 1, "srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}, "its affine places no volume"),
        (FLAT, "its affine places no volume"),
        (PARALLEL, "its affine places no volume"),
        (NO_NUMBER, "its affine places no volume"),
        ({"pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}, "its voxel size is 0 and no sform gives another"),
    ],
)
def test_affines_that_place_nothing(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=f"a.nii: {words}"):
        probe(raw(tmp_path / "a.nii", np.zeros((2, 3, 4), np.uint8), fields))


def test_headers_that_are_odd_but_clear(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    negative = probe(raw(tmp_path / "n.nii", values, {"pixdim": [1, -2, -2, 5, 0, 0, 0, 0]}))
    assert negative.sides_mm == (2, 2, 5)
    np.testing.assert_array_equal(voxels(negative), values)
    sform = {"sform_code": 1, "srow_x": [3, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}
    odd = probe(raw(tmp_path / "q.nii", values, {**sform, "qform_code": 1, "quatern_b": np.nan}))
    assert odd.header["qform_code"] == 0 and odd.sides_mm == (3, 1, 1)
    write_labels(tmp_path / "out.nii", values, volumes.grid_of(odd, 2))
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out.nii").affine, odd.affine)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, (9, 9, 9)).astype(np.uint8))
    content = good.read_bytes()

    def words(name: str, data: bytes | None = None) -> str:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            voxels(probe(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "not readable as NIfTI" in words("absent.nii")
    assert "not readable as NIfTI" in words("empty.nii.gz", b"")
    assert "not readable as NIfTI" in words("text.nii", b"hello" * 200)
    assert "damaged" in words("cut.nii.gz", content[: len(content) // 2])
    assert "damaged" in words("sum.nii.gz", content[:-8] + bytes(4) + content[-4:])
    assert "damaged: 800 bytes, expected 1081" in words("short.nii", gzip.decompress(content)[:800])
    colors = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "rgb.nii", colors)
    assert "expected one number per voxel" in words("rgb.nii")
    save(tmp_path / "complex.nii", np.zeros((2, 2, 2), np.complex64))
    assert "holds complex64" in words("complex.nii")
    save(tmp_path / "five.nii", np.zeros((2, 2, 2, 3, 2), np.uint8))
    assert "2 x 2 x 2 x 3 x 2 voxels; expected 2 or 3 dimensions" in words("five.nii")
    save(tmp_path / "line.nii", np.zeros((5,), np.uint8))
    assert "5 voxels; expected 2 or 3 dimensions" in words("line.nii")


def test_a_vector_image_holds_its_components_as_volumes(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 1, 2)
    source = probe(save(tmp_path / "a.nii", values))
    assert (source.shape, source.volumes) == ((2, 3, 4), 2)
    np.testing.assert_array_equal(voxels(source), values[:, :, :, 0])


# --- finding -------------------------------------------------------------------------------------


def test_cases_of_folders_and_files(tmp_path: Path) -> None:
    for name in ("b.nii", "sub dir/a.nii.gz", "._b.nii", ".hidden/c.nii", "notes.txt", "Kaggle.nii/x.NII.GZ"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = cases(tmp_path)
    assert list(found) == ["Kaggle.nii_x", "b", "sub_dir_a"]
    assert case_name(tmp_path / "b.nii", tmp_path) == "b"
    assert cases(tmp_path / "b.nii") == {"b": [tmp_path / "b.nii"]}
    (tmp_path / "b.nii.gz").touch()
    with pytest.raises(InputError, match=r"b.nii.gz: the same case name as .*b.nii; rename one"):
        cases(tmp_path)
    with pytest.raises(InputError, match="absent: no such file or folder"):
        cases(tmp_path / "absent")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none: holds no NIfTI file"):
        cases(tmp_path / "none")


def test_cases_with_a_file_per_channel(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0002_0000", "b_0002_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert {name: [path.name for path in paths] for name, paths in cases(tmp_path, "each").items()} == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b_0002": ["b_0002_0000.nii.gz", "b_0002_0001.nii.gz"],
    }
    assert list(cases(tmp_path / "a_0001.nii.gz", "each")) == ["a"]
    assert len(cases(tmp_path / "a_0001.nii.gz", "each")["a"]) == 2
