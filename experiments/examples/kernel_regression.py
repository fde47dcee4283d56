"""Kernel regression on images with the kernel of a convolutional network at initialisation.

python experiments/examples/kernel_regression.py --dataset=cifar10 --data_dir=PATH --train=2000 --test=1000
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags

from jaxnas import data, ntk

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", "synthetic", "as of jaxnas.main, such as cifar10")
flags.DEFINE_string("data_dir", None, "the folder of TFDS data sets")
flags.DEFINE_integer("train", 200, "images to learn from", lower_bound=1)
flags.DEFINE_integer("test", 100, "images to classify", lower_bound=1)
flags.DEFINE_integer("batch_size", 100, "images whose derivatives are in memory at a time", lower_bound=1)


class ConvNet(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x):
    for features, stride in ((16, 1), (32, 2), (64, 2)):
      x = nn.relu(nn.Conv(features, (3, 3), strides=stride)(x))
    return nn.Dense(self.classes)(x.mean((1, 2)))


def main(argv) -> None:
  del argv
  source = data.load(FLAGS.dataset, data_dir=FLAGS.data_dir)
  images, labels = data.plain_batch(source, jax.random.key(0), FLAGS.train + FLAGS.test, "--train plus --test")
  (x, x_test), (labels, truth) = jnp.split(images, [FLAGS.train]), jnp.split(labels, [FLAGS.train])
  y = jax.nn.one_hot(labels, source.classes) - 1 / source.classes
  model = ConvNet(source.classes)
  params = jax.jit(model.init)(jax.random.key(1), x[:1])

  kernel_fn = ntk.batch(ntk.empirical_ntk_fn(model.apply, vmap_axes=0), FLAGS.batch_size, device_count=0)
  theta, cross = kernel_fn(x, None, params), kernel_fn(x_test, x, params)
  posterior = ntk.predict.gp_inference(theta, y, diag_reg=1e-3)
  outputs = posterior(get="ntkgp", k_test_train=cross)
  right = 100 * float(jnp.mean(jnp.argmax(outputs, -1) == truth))
  print(f"{source.name}: {right:.1f} % of {FLAGS.test} images right; chance {100 / source.classes:.1f} %")


if __name__ == "__main__":
  app.run(main)
