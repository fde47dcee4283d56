"""Images and batches: embedded and through TFDS."""

import io
import json
import shutil
import subprocess

import jax
import numpy as np
import pytest
from helpers import python
from PIL import Image

from jaxnas import data
from jaxnas.data import synthetic as embedded
from jaxnas.data import tfds_source
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
  with pytest.raises(ConfigError, match="--dataset='mnist' is not known.*synthetic, cifar10"):
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
  done = python(code)
  assert done.stdout.split() == ["False", "False"]
  assert done.stderr == ""


def test_source_is_the_same_with_and_without_its_cache():
  source, order = data.load("synthetic", split="test"), np.array([9, 4, 4, 7000])
  first, second = source.examples(order), source.examples(order[::-1])
  np.testing.assert_array_equal(first[0], source.read(order)[0])
  np.testing.assert_array_equal(first[0][::-1], second[0])
  np.testing.assert_array_equal(source.labels(order), [9, 4, 4, 0])
  assert (len(source), source.classes, source.image_shape) == (10_000, 10, (32, 32, 3))
  assert source.images(order).dtype == np.uint8
  assert (source.labels(order).dtype, source.mean.dtype, source.std.dtype) == (np.int32, np.float32, np.float32)
  assert source.images(np.array([], int)).shape == (0, 32, 32, 3)


def test_cache_forgets_the_oldest_and_stays_right(monkeypatch):
  monkeypatch.setattr("jaxnas.data.source._CACHE_BYTES", 5 * 12)
  asked = []

  def read(indices):
    asked.extend(indices.tolist())
    return np.broadcast_to(indices[:, None, None, None], (len(indices), 2, 2, 3)).astype(np.uint8), indices

  source = data.ImageSource("made", 100, (2, 2, 3), 100, np.zeros(3), np.ones(3), read)
  rng = np.random.default_rng(0)
  for size in (3, 5, 4, 9, 1, 20, 5):
    indices = rng.integers(0, 100, size)
    found, labels = source.examples(indices)
    np.testing.assert_array_equal(found[:, 0, 0, 0], indices)
    np.testing.assert_array_equal(labels, indices)
    np.testing.assert_array_equal(source.labels(indices), indices)
  source = data.ImageSource("made", 100, (2, 2, 3), 100, np.zeros(3), np.ones(3), read)
  asked.clear()
  for start in (0, 0, 5, 0):
    source.examples(np.arange(start, start + 5))
  assert asked == [*range(10), *range(5)]


@pytest.mark.parametrize("indices", [[-1], [10_000], [0.5], [[1]]])
def test_bad_indices_are_refused(unchecked, indices):
  with pytest.raises(ConfigError, match="indices must"):
    data.load(split="test").images(np.array(indices))


@pytest.mark.parametrize(
  ("read", "words"),
  [
    (lambda i: (np.zeros((len(i), 4, 4, 3), np.float32), i), "uint8.*float32"),
    (lambda i: (np.zeros((len(i), 4, 4, 1), np.uint8), i), r"\(1, 4, 4, 3\).*\(1, 4, 4, 1\)"),
    (lambda i: (np.zeros((len(i), 4, 4, 3), np.uint8), i - 1), r"\[0, 2\).*-1"),
  ],
)
def test_images_of_another_type_shape_or_range_are_refused(read, words):
  source = data.ImageSource("made", 2, (4, 4, 3), 5, np.zeros(3), np.ones(3), read)
  with pytest.raises(DatasetError, match=words):
    source.images(np.array([0]))


def test_cifar10_splits(shared):
  folder = shared / "data" / "tfds"
  assert len(data.load("cifar10", split="test", data_dir=folder)) == 2000
  assert len(data.load("cifar10", split="train[:100]", data_dir=str(folder))) == 100
  with pytest.raises(DatasetError, match=r"split 'valid' .*train, test"):
    data.load("cifar10", split="valid", data_dir=folder)


@pytest.mark.parametrize(
  ("split", "size"),
  [
    ("train", 100),
    ("train[:7]", 7),
    ("train[-7:]", 7),
    ("train[50%:]", 50),
    ("train[:100]", 100),
    ("train[20:30]", 10),
  ],
)
def test_slices_of_a_split(tmp_path, split, size):
  write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 0)] * 100)
  assert len(data.load("cifar10", split=split, data_dir=tmp_path)) == size


@pytest.mark.parametrize(
  "split",
  [
    "train[:101]",
    "train[::2]",
    "train[:0]",
    "train[5:3]",
    "train[:x]",
    "train+validation",
    "train[",
    "",
    "train[101%:]",
  ],
)
def test_slices_that_there_are_not_are_no_damage(tmp_path, split):
  write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 0)] * 100)
  with pytest.raises(DatasetError, match=r"split .*give one of train, or a slice") as caught:
    data.load("cifar10", split=split, data_dir=tmp_path)
  assert "damaged" not in str(caught.value) and "remove" not in str(caught.value)


def test_an_error_inside_tfds_is_no_damage(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  def fails(*args, **kwargs):
    raise AttributeError("'FieldDescriptor' object has no attribute 'label'")

  write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 0)])
  monkeypatch.setattr(tfds, "data_source", fails)
  with pytest.raises(DatasetError, match=r"AttributeError.*tensorflow-datasets 4.*protobuf") as caught:
    data.load("cifar10", data_dir=tmp_path)
  assert "damaged" not in str(caught.value) and "remove" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "gone", "flipped"])
def test_damaged_record_files(shared, tmp_path, damage):
  folder = tmp_path / "cifar10" / "3.0.2"
  shutil.copytree(shared / "data" / "tfds" / "cifar10" / "3.0.2", folder)
  folder.chmod(0o755)
  records = next(folder.glob("*test*"))
  content = bytearray(records.read_bytes())
  records.unlink()
  if damage in ("truncated", "empty"):
    records.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
  elif damage == "flipped":
    content[1_000_000:4_000_000:500] = bytes(6000)
    records.write_bytes(content)
  with pytest.raises(DatasetError, match=r"(damaged|files may be missing).*--data_dir") as caught:
    data.load("cifar10", split="test", data_dir=tmp_path).images(np.arange(2000))
  assert "\n" not in str(caught.value)


def write_tfds(folder, builder, version, examples, split="train", form="array_record"):
  """A TFDS folder with PNG or JPEG `examples`, pairs of (encoded image, label)."""
  from array_record.python.array_record_module import ArrayRecordWriter
  from tensorflow_datasets.proto import tf_example_pb2

  target = folder / builder / version
  target.mkdir(parents=True)
  features, name = "tensorflow_datasets.core.features", builder.split("/")[0]
  shape = {"dimensions": ["-1", "-1", "3"]}
  spec = {
    "image": {"pythonClassName": f"{features}.image_feature.Image", "image": {"dtype": "uint8", "shape": shape}},
    "label": {"pythonClassName": f"{features}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "1000"}},
  }
  tree = {"pythonClassName": f"{features}.features_dict.FeaturesDict", "featuresDict": {"features": spec}}
  (target / "features.json").write_text(json.dumps(tree))
  entry = {"name": split, "shardLengths": [str(len(examples))], "numBytes": "1"}
  entry["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
  info = {"name": name, "version": version, "fileFormat": form, "splits": [entry]}
  if "/" in builder:
    info["configName"] = builder.split("/")[1]
  (target / "dataset_info.json").write_text(json.dumps(info))
  writer = ArrayRecordWriter(str(target / f"{name}-{split}.{form}-00000-of-00001"), "group_size:1")
  for encoded, label in examples:
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(encoded)
    example.features.feature["label"].int64_list.value.append(label)
    writer.write(example.SerializeToString())
  writer.close()
  return target


def encoded(array, form="PNG"):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, form)
  return buffer.getvalue()


def noise(side, channels=3, seed=0):
  shape = (side, side, channels) if channels > 1 else (side, side)
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_cifar100_and_its_labels(tmp_path):
  write_tfds(tmp_path, "cifar100", "3.0.2", [(encoded(noise(32, seed=i)), 99 - i) for i in range(3)])
  source = data.load("cifar100", data_dir=tmp_path)
  np.testing.assert_array_equal(source.labels(np.arange(3)), [99, 98, 97])
  np.testing.assert_array_equal(source.images(np.array([2]))[0], noise(32, seed=2))


def test_newest_version_is_read(tmp_path):
  write_tfds(tmp_path, "cifar10", "3.0.9", [(encoded(noise(32)), 1)])
  write_tfds(tmp_path, "cifar10", "3.0.10", [(encoded(noise(32)), 2)])
  assert data.load("cifar10", data_dir=tmp_path).labels(np.array([0])) == [2]


@pytest.mark.parametrize(
  ("picture", "label", "words"),
  [
    (noise(28), 0, "28x28 .*expected 32x32"),
    (noise(32, channels=1), 0, "mode L"),
    (noise(32), 10, r"\[0, 10\)"),
    (None, 0, "cannot be decoded"),
  ],
)
def test_foreign_records_are_refused(tmp_path, picture, label, words):
  content = b"no image" if picture is None else encoded(picture)
  write_tfds(tmp_path, "cifar10", "3.0.2", [(content, label)])
  with pytest.raises(DatasetError, match=words):
    data.load("cifar10", data_dir=tmp_path)


def test_imagenet_is_resized_by_averaging(tmp_path):
  blocks = np.kron(noise(32), np.ones((4, 4, 1), np.uint8))
  examples = [(encoded(blocks), 999), (encoded(noise(50, channels=1)), 3), (encoded(noise(500), "JPEG"), 120)]
  write_tfds(tmp_path, "imagenet2012", "5.1.0", examples)
  source = data.load("imagenet2012", data_dir=tmp_path)
  images, labels = source.examples(np.arange(3))
  np.testing.assert_array_equal(images[0], noise(32))
  assert (images[1] == images[1][..., :1]).all()
  assert images[2].std() < 20  # averages of noise
  np.testing.assert_array_equal(labels, [999, 3, 120])


def test_imagenet_at_a_side_is_the_middle_square(tmp_path):
  picture = np.zeros((40, 60, 3), np.uint8)
  picture[:, 10:50] = noise(40)
  write_tfds(tmp_path, "imagenet2012", "5.1.0", [(encoded(picture), 7)])
  source = data.load("imagenet2012", data_dir=tmp_path, side=40)
  assert source.image_shape == (40, 40, 3)
  np.testing.assert_array_equal(source.images(np.array([0]))[0], noise(40))


def test_a_side_is_for_data_sets_whose_images_have_many_sizes():
  assert data.load("synthetic", side=40).image_shape == (32, 32, 3)


def test_the_first_examples():
  source = data.load("synthetic")
  np.testing.assert_array_equal(source.first(3).images(np.arange(3)), source.images(np.arange(3)))
  assert len(source.first(3)) == 3
  with pytest.raises(ConfigError, match="count=50001"):
    source.first(50_001)


def test_imagenet16_120_keeps_the_first_120_classes(tmp_path):
  labels = [500, 119, 120, 0, 999, 7]
  write_tfds(tmp_path, "imagenet2012", "5.1.0", [(encoded(noise(64, seed=i)), k) for i, k in enumerate(labels)])
  source = data.load("imagenet16_120", data_dir=tmp_path)
  assert (len(source), source.classes, source.image_shape) == (3, 120, (16, 16, 3))
  np.testing.assert_array_equal(source.labels(np.arange(3)), [119, 0, 7])
  exact = noise(16, seed=9)
  write_tfds(tmp_path, "imagenet_resized/16x16", "0.1.0", [(encoded(noise(16)), 500), (encoded(exact), 5)])
  source = data.load("imagenet16_120", data_dir=tmp_path)
  np.testing.assert_array_equal(source.images(np.array([0]))[0], exact)


def test_tfrecord_files_are_named(tmp_path):
  write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 0)], form="tfrecord")
  with pytest.raises(
    DatasetError, match="tfrecord.*give that as --data_dir.*data_dir='ANOTHER_FOLDER', file_format='array_record'"
  ):
    data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_unreadable_dataset_info(tmp_path, content):
  folder = write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 0)])
  (folder / "dataset_info.json").write_text(content)
  with pytest.raises(DatasetError, match=r"cifar10.*damaged"):
    data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet16_120", "imagenet2012"])
def test_missing_data_set_says_what_to_run(tmp_path, monkeypatch, name):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
  for folder in (None, tmp_path / "nowhere"):
    with pytest.raises(DatasetError, match=r"--data_dir=.*--download") as caught:
      data.load(name, data_dir=folder)
    assert "\n" not in str(caught.value)
    assert str(folder or tmp_path / "default") in str(caught.value)
  assert list(tmp_path.iterdir()) == []


def test_download_without_tensorflow_gives_the_command(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda _: None)
  with pytest.raises(DatasetError, match=r"tensorflow.*python -c .*'cifar10'.*--data_dir="):
    data.load("cifar10", data_dir=tmp_path, download=True)
  with pytest.raises(DatasetError, match=r"ILSVRC2012_img_train.tar"):
    data.load("imagenet2012", data_dir=tmp_path, download=True)


def test_download_prepares_in_another_process(tmp_path, monkeypatch):
  def run(command, *, env, check):
    assert "cifar10" in command[-1]
    assert env["CUDA_VISIBLE_DEVICES"] == "-1"
    write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 6)])
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda _: True)
  monkeypatch.setattr(tfds_source.subprocess, "run", run)
  assert data.load("cifar10", data_dir=tmp_path, download=True).labels(np.array([0])) == [6]
  assert len(data.load("cifar10", data_dir=tmp_path, download=True)) == 1  # already there: not prepared again
  monkeypatch.setattr(tfds_source.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
  with pytest.raises(DatasetError, match="could not prepare 'cifar100'"):
    data.load("cifar100", data_dir=tmp_path, download=True)


def run_python(code, path=""):
  return python(f"import sys; sys.path.insert(0, {str(path)!r})\n" + code, check=False)


def test_reading_needs_neither_tensorflow_nor_the_network_and_is_silent(tmp_path):
  (tmp_path / "tensorflow").mkdir()
  (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
  write_tfds(tmp_path, "cifar10", "3.0.2", [(encoded(noise(32)), 0)] * 4)
  done = run_python(
    f"""
import socket, numpy as np
from jaxnas import data, errors
def refuse(*args, **kwargs):
  raise SystemExit("the network was used")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
data.load("cifar10", data_dir={str(tmp_path)!r}).images(np.arange(4))
try:
  data.load("cifar100", data_dir={str(tmp_path)!r})
except errors.DatasetError:
  pass
assert "tensorflow_datasets" in sys.modules and not {{"tensorflow", "matplotlib"}} & set(sys.modules)
""",
    tmp_path,
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def denormalised(source, batch):
  return np.rint((batch * source.std + source.mean) * 255).astype(int)


def ramp(side=32, size=200, value=lambda i: i + 1):
  """Image i is constant at value(i): what happened to a pixel tells which image it came from."""

  def read(indices):
    shades = np.array([value(i) for i in indices], np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (len(indices), side, side, 3)).copy(), indices % 10

  mean, std = np.array([0.4, 0.5, 0.6], np.float32), np.array([0.2, 0.25, 0.3], np.float32)
  return data.ImageSource("ramp", 10, (side, side, 3), size, mean, std, read)


def test_plain_batch_is_normalised_and_has_its_labels():
  source = ramp()
  batch, labels = data.plain_batch(source, jax.random.key(0), 200)
  assert (batch.shape, batch.dtype, labels.dtype) == ((200, 32, 32, 3), np.float32, np.int32)
  pixels = denormalised(source, batch)
  shades = pixels[:, 0, 0, 0]
  assert (pixels == shades[:, None, None, None]).all()
  assert sorted(shades) == list(range(1, 201))  # without replacement
  np.testing.assert_array_equal(labels, (shades - 1) % 10)


@pytest.mark.parametrize(("side", "pad"), [(32, 4), (16, 2)])
def test_augmented_batch_pads_with_black_before_normalising(side, pad):
  source = ramp(side, value=lambda i: i % 50 + 200)
  batch = data.augmented_batch(source, jax.random.key(1), 200)
  assert (batch.shape, batch.dtype) == ((200, side, side, 3), np.float32)
  pixels = denormalised(source, batch)
  black = (pixels == 0).all(-1)
  assert ((pixels >= 200).all(-1) | black).all()
  top, bottom = black[:, :, side // 2].argmin(1), black[:, ::-1, side // 2].argmin(1)
  assert (np.minimum(top, bottom) == 0).all()
  assert set((top - bottom).tolist()) == set(range(-pad, pad + 1))  # every offset occurs
  left, right = black[:, side // 2].argmin(1), black[:, side // 2, ::-1].argmin(1)
  assert set((left - right).tolist()) == set(range(-pad, pad + 1))
  assert abs(np.corrcoef(top - bottom, left - right)[0, 1]) < 0.3


def test_region_crops_are_patches_of_one_channel():
  images, source = embedded.generate(np.arange(5))[0], data.load("synthetic")
  source = data.ImageSource("few", 10, (32, 32, 3), 5, source.mean, source.std, embedded.generate)
  crops = data.region_crops(source, jax.random.key(0), batches=2, batch_size=40).reshape(80, 9)
  windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
  normal = [(windows[:, :, :, c] / np.float32(255) - source.mean[c]) / source.std[c] for c in range(3)]
  known = [{tuple(np.round(patch, 4)) for patch in one.reshape(-1, 9)} for one in normal]
  origins = [{c for c in range(3) if tuple(np.round(crop, 4)) in known[c]} for crop in crops]
  assert all(origins)  # every crop is an unpadded, unflipped patch
  assert set.union(*origins) == {0, 1, 2}
