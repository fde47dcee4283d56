"""A stand-in for what shows progress."""


class Counted(list):
  """What `advance` was told, call by call, and how much of it an earlier run had done."""

  earlier = 0

  def __call__(self, n, earlier=False):
    self.append(n)
    self.earlier += n if earlier else 0
