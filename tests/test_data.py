"""Images and batches: embedded and through TFDS."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxnas import data
from jaxnas.errors import ConfigError, DatasetError


@pytest.fixture(scope="module")
def synthetic():
  return data.load()


@pytest.fixture(scope="module")
def cifar(shared):
  return data.load("cifar10", data_dir=shared / "data" / "tfds")


def test_synthetic_has_natural_image_statistics(synthetic):
  images = synthetic.images(np.arange(400)).astype(np.float64)
  assert images.shape == (400, 32, 32, 3)
  np.testing.assert_allclose(images.mean((0, 1, 2)) / 255, synthetic.mean, atol=0.03)
  np.testing.assert_allclose(images.std((0, 1, 2)) / 255, synthetic.std, atol=0.03)
  grey = images.mean(-1)
  neighbours = np.corrcoef(grey[:, :, :-1].ravel(), grey[:, :, 1:].ravel())[0, 1]
  assert 0.8 < neighbours < 0.99
  power = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))).mean(0) ** 2
  frequencies = np.arange(1, 13)
  slope = np.polyfit(np.log(frequencies), np.log((power[0, 1:13] + power[1:13, 0]) / 2), 1)[0]
  assert -3 < slope < -1.5


def test_synthetic_images_depend_on_their_index_alone(synthetic):
  some = np.array([7, 3, 49_999, 3])
  images, labels = data.load().examples(some)
  whole, _ = synthetic.examples(np.arange(8))
  np.testing.assert_array_equal(images[0], whole[7])
  np.testing.assert_array_equal(images[1], images[3])
  np.testing.assert_array_equal(images[1], whole[3])
  assert labels.dtype == np.int32
  assert (data.load(split="test").images(np.array([3])) != images[1]).any()


def test_synthetic_classes_differ(synthetic):
  images, labels = synthetic.examples(np.arange(600))
  tint = images.reshape(600, -1, 3).mean(1)
  tint = tint[:, 0] - tint[:, 2]
  means = np.array([tint[labels == k].mean() for k in range(10)])
  assert means.std() > 2 * tint.std() / np.sqrt(60)


def test_cifar10_subset(cifar, shared):
  assert len(cifar) == 10_000
  assert cifar.image_shape == (32, 32, 3)
  images, labels = cifar.examples(np.arange(2000))
  assert images.dtype == np.uint8
  np.testing.assert_allclose(images.mean((0, 1, 2)), [125.2, 122.8, 113.5], atol=3)
  assert (np.bincount(labels, minlength=10) > 150).all()
  assert len(data.load("cifar10", split="test", data_dir=shared / "data" / "tfds")) == 2000


@pytest.mark.parametrize("name", ["synthetic", "cifar"])
def test_batches_are_normalised_and_repeatable(name, request):
  source = request.getfixturevalue(name)
  key = jax.random.key(3)
  for batch in (data.augmented_batch(source, key, 200), data.plain_batch(source, key, 200)[0]):
    assert batch.shape == (200, 32, 32, 3)
    assert batch.dtype == np.float32
    assert abs(batch.mean()) < 0.6
    assert 0.7 < batch.std() < 1.4
  np.testing.assert_array_equal(data.augmented_batch(source, key, 9), data.augmented_batch(source, key, 9))
  other = data.augmented_batch(source, jax.random.key(4), 9)
  assert (data.augmented_batch(source, key, 9) != other).any()


def test_augmentation_flips_and_crops():
  """Every augmented image is a window of the original in its black frame, or of its mirror image."""
  row, column = np.mgrid[0:32, 0:32]
  marked = np.stack([row * 7 + 1, column * 7 + 1, np.full_like(row, 9)], -1).astype(
    np.uint8
  )  # each pixel knows its place

  def read(indices):
    return np.repeat(marked[None], len(indices), 0), np.zeros(len(indices), np.int32)

  source = data.ImageSource("marked", 10, (32, 32, 3), 100, np.zeros(3), np.ones(3), read)
  batch = np.rint(data.augmented_batch(source, jax.random.key(0), 100) * 255).astype(int)
  frames = [np.pad(m, ((4, 4), (4, 4), (0, 0))).astype(int) for m in (marked, marked[:, ::-1])]
  seen = set()
  for image in batch:
    places = [
      (i, y, x)
      for i, frame in enumerate(frames)
      for y in range(9)
      for x in range(9)
      if np.array_equal(frame[y : y + 32, x : x + 32], image)
    ]
    assert len(places) == 1
    seen.add(places[0])
  assert {s[0] for s in seen} == {0, 1}
  assert {s[1] for s in seen} == {s[2] for s in seen} == set(range(9))


def test_region_crops(cifar):
  crops = data.region_crops(cifar, jax.random.key(0))
  assert crops.shape == (3, 1000, 3, 3, 1)
  assert crops.dtype == np.float32
  flat = crops.reshape(3000, 9)
  assert np.corrcoef(flat[:, 4], flat[:, 5])[0, 1] > 0.8  # neighbouring pixels of real images
  assert len(np.unique(flat, axis=0)) > 2900
  np.testing.assert_array_equal(crops, data.region_crops(cifar, jax.random.key(0)))
  assert data.region_crops(cifar, jax.random.key(0), batches=1, batch_size=4, size=5, channels=2).shape == (
    1,
    4,
    5,
    5,
    2,
  )


@pytest.mark.parametrize("size", [0, 50_001])
def test_batch_sizes_out_of_range(synthetic, size):
  with pytest.raises(ConfigError, match=str(size)):
    data.augmented_batch(synthetic, jax.random.key(0), size)


def test_crops_larger_than_the_images(synthetic):
  with pytest.raises(ConfigError, match="size=33"):
    data.region_crops(synthetic, jax.random.key(0), size=33)


def test_missing_data_set_says_what_to_do(tmp_path):
  with pytest.raises(DatasetError, match=r"--data_dir.*--download"):
    data.load("cifar100", data_dir=tmp_path)
  assert not list(tmp_path.iterdir())


def test_unknown_names(shared):
  with pytest.raises(DatasetError, match="synthetic, cifar10"):
    data.load("mnist")
  with pytest.raises(DatasetError, match="nonsense"):
    data.load("cifar10", split="nonsense", data_dir=shared / "data" / "tfds")
  with pytest.raises(DatasetError, match="validation"):
    data.load(split="validation")


def test_truncated_records(shared, tmp_path):
  source = shared / "data" / "tfds" / "cifar10" / "3.0.2"
  copy = tmp_path / "cifar10" / "3.0.2"
  shutil.copytree(source, copy)
  copy.chmod(0o755)
  file = copy / "cifar10-test.array_record-00000-of-00001"
  file.chmod(0o644)
  file.write_bytes(file.read_bytes()[:100_000])
  with pytest.raises(DatasetError, match="cannot be read"):
    data.load("cifar10", split="test", data_dir=tmp_path).images(np.arange(50))


def test_wrong_images_are_refused():
  def read(indices):
    return np.zeros((len(indices), 16, 16, 3), np.uint8), np.zeros(len(indices), np.int32)

  source = data.ImageSource("wrong", 10, (32, 32, 3), 10, np.zeros(3), np.ones(3), read)
  with pytest.raises(DatasetError, match=r"32, 32, 3.*16, 16, 3"):
    source.images(np.arange(2))


def test_without_tensorflow(shared):
  code = (
    "import sys; import numpy as np; from jaxnas import data; "
    "assert 'tensorflow_datasets' not in sys.modules; "
    f"data.load('cifar10', data_dir={str(shared / 'data' / 'tfds')!r}).images(np.arange(3)); "
    "print('tensorflow' in sys.modules, 'torch' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["False", "False"]
  assert done.stderr == ""
