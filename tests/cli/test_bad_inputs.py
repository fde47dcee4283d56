"""Bad input on the command line: one line that names the flag, the value and a fix, exit code 2, nothing computed.

All cases run one after the other in one process, started as users start the program but for that.
"""

import json

import pytest
from helpers import python

DRIVER = """
import contextlib, io, json, sys
from absl.testing import flagsaver
from jaxnas import main

found = []
for flags in json.loads(sys.stdin.read()):
  error = io.StringIO()
  with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()), flagsaver.flagsaver():
    try:
      code = main._guarded(main._parse(["jaxnas", "--compilation_cache=off", *flags]))
    except SystemExit as leaving:
      code = leaving.code
  found.append([code, error.getvalue()])
print(json.dumps(found))
"""
SCORE = ("--algorithm=score", "--proxies=params")
NO_PATH = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
CASES = [
  # names
  (["--algorithm=darts"], ["--algorithm='darts'", "choose among", "tenas", "train"]),
  (["--algorithm=tena"], ["--algorithm='tena'", "did you mean tenas"]),
  (["--algorithm=tenaz"], ["--algorithm='tenaz'", "did you mean tenas"]),
  (["--space=nb102"], ["--space='nb102'", "did you mean nb101 or nb201"]),
  (["--dataset=cifar"], ["--dataset='cifar'", "did you mean cifar10"]),
  (["--dataset=CIFAR10"], ["--dataset='CIFAR10'", "did you mean cifar10"]),
  (["--preset=tenas_nb201_cifar"], ["--preset=", "did you mean tenas_nb201_cifar10"]),
  (["--preset="], ["--preset=''"]),
  (["--nonsense=1"], ["nonsense"]),
  (["stray"], ["stray"]),
  # what does not go together
  (["--space=nb101"], ["--algorithm=tenas does not search --space=nb101", "nb201 or darts", "score"]),
  (["--algorithm=nasi", "--space=nb101"], ["--algorithm=nasi", "--space=nb101", "nb201 or darts"]),
  (["--algorithm=train", "--space=nb101"], ["--algorithm=train", "--space=nb101", "nb201 or darts"]),
  (["--samples=3"], ["--samples", "random_search"]),
  (["--download"], ["--download", "synthetic"]),
  (["--data_dir=x"], ["--data_dir", "synthetic"]),
  (["--algorithm=nasi", "--batch_norm=batch"], ["--batch_norm", "nasi"]),
  (["--algorithm=knas", "--benchmark=none"], ["--knas_fine=table", "--benchmark"]),
  (["--process_id=1"], ["--process_id=1", "--distributed"]),
  (
    ["--algorithm=random_search", "--criterion=valid_12ep", "--benchmark=none"],
    ["--criterion=valid_12ep", "--benchmark"],
  ),
  # numbers
  (["--repeats=0"], ["--repeats=0"]),
  (["--repeats=1e22"], ["--repeats", "1e22"]),
  (["--repeats=99999999999999999999"], ["--repeats", "99999999999999999999"]),
  (["--ntk_batch=1"], ["--ntk_batch=1"]),
  (["--ntk_batch=999999"], ["--ntk_batch=999999", "50000"]),
  (["--prune_number=99"], ["--prune_number=99", "4"]),
  (["--seeds=1,1"], ["--seeds"]),
  (["--seeds=-1"], ["--seeds"]),
  (["--seeds="], ["--seeds"]),
  (["--seeds=²"], ["--seeds"]),
  (["--memory_gb=nan"], ["--memory_gb=nan"]),
  (["--memory_gb=inf"], ["--memory_gb=inf"]),
  (["--memory_gb=-1"], ["--memory_gb=-1"]),
  (["--algorithm=knas", "--knas_shortlist=400"], ["--knas_shortlist=400", "--knas_candidates=300"]),
  (["--algorithm=knas", "--knas_batch=1"], ["--knas_batch=1"]),
  (["--algorithm=nasi", "--nasi_batch=1"], ["--nasi_batch=1"]),
  (["--algorithm=nasi", "--nasi_steps=0"], ["--nasi_steps=0"]),
  (["--algorithm=nasi", "--nasi_tau=nan"], ["--nasi_tau=nan"]),
  ([*SCORE, "--archs=1", "--score_batch=999999"], ["--score_batch=999999", "50000"]),
  ([*SCORE, "--archs=1", "--score_batch=1"], ["--score_batch=1"]),
  ([*SCORE, "--archs=1", "--score_channels=99999999999"], ["--score_channels", "99999999999"]),
  (["--region_samples=1000000000000"], ["--region_samples", "1000000000000"]),
  # architectures and proxies
  (["--algorithm=score"], ["--archs"]),
  ([*SCORE, "--archs=random:0"], ["--archs", "random:0", "15625"]),
  ([*SCORE, "--archs=random:²"], ["--archs='random:²'", "N from 1"]),
  ([*SCORE, "--archs=random:٣"], ["--archs=", "N from 1"]),
  ([*SCORE, "--archs=random"], ["--archs='random'", "N from 1"]),
  ([*SCORE, "--archs=benchmark:0"], ["--archs='benchmark:0'", "N from 1"]),
  ([*SCORE, "--archs=benchmark:"], ["--archs='benchmark:'", "N from 1"]),
  ([*SCORE, "--archs=²"], ["--archs='²'"]),
  ([*SCORE, "--archs=--1"], ["--archs='--1'"]),
  ([*SCORE, "--archs=-1"], ["--archs='-1'", "0..15624"]),
  ([*SCORE, "--archs=15625"], ["--archs='15625'", "0..15624"]),
  ([*SCORE, "--archs=99999"], ["--archs='99999'"]),
  ([*SCORE, "--archs=|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|"], ["--archs=", "conv", "nor_conv_1x1"]),
  ([*SCORE, f"--archs={NO_PATH}"], ["--archs=", "no path"]),
  (["--algorithm=score", "--archs=1", "--proxies=magic"], ["--proxies='magic'", "naswot"]),
  (["--algorithm=score", "--archs=1", "--proxies=naswott"], ["--proxies='naswott'", "did you mean naswot?"]),
  (["--algorithm=score", "--archs=1", "--proxies=all,params"], ["--proxies='all,params'", "stands alone"]),
  (["--algorithm=score", "--archs=1", "--proxies=snip,snip"], ["--proxies", "once"]),
  (["--algorithm=score", "--archs=1", "--proxies="], ["--proxies", "at least one"]),
  (["--algorithm=score", "--archs=1", "--proxies=snip", "--region_batches=2"], ["--region_batches", "regions"]),
  (["--algorithm=random_search", "--criterion=paramz"], ["--criterion='paramz'", "did you mean params?"]),
  (["--algorithm=train", "--space=darts"], ["--genotype"]),
  (["--algorithm=train", f"--genotype={NO_PATH}"], ["--genotype=", "no path"]),
  (["--algorithm=train", "--genotype=15625"], ["--genotype='15625'", "0..15624"]),
  (["--algorithm=train", "--space=darts", "--genotype=DARTS_V3"], ["--genotype='DARTS_V3'", "did you mean DARTS_V"]),
  (["--algorithm=train", "--space=darts", "--genotype=Genotype("], ["--genotype='Genotype('", "never closed"]),
  (
    ["--algorithm=gennas", "--signal_task=CONF_NB102"],
    ["--signal_task", "CONF_NB102", "did you mean CONF_NB101"],
  ),
  # paths
  (["--benchmark=does_not_exist"], ["--benchmark", "does_not_exist"]),
  (["--benchmark="], ["--benchmark"]),
  (["--benchmark=~nouser/x.csv"], ["--benchmark='~nouser/x.csv'", "whole path"]),
  (["--dataset=cifar10", "--data_dir=does_not_exist"], ["--data_dir", "--download"]),
  (["--dataset=cifar10", "--data_dir="], ["--data_dir=''", "empty path"]),
  (["--workdir="], ["--workdir=''", "empty path"]),
  (["--workdir=~nouser/x"], ["--workdir='~nouser/x'", "whole path"]),
  (["--workdir=a\0b"], ["--workdir=", "printable"]),
  (["--workdir=a\udcffb"], ["--workdir=", "UTF-8"]),
  (["--plugins=nowhere.py"], ["--plugins=nowhere.py", "no such file"]),
  (["--compilation_cache=/dev/null/x"], ["--compilation_cache="]),
]


@pytest.fixture(scope="module")
def answers():
  return json.loads(python(DRIVER, given=json.dumps([flags for flags, _ in CASES])).stdout.splitlines()[-1])


@pytest.mark.parametrize("number", range(len(CASES)), ids=[" ".join(flags)[:60] for flags, _ in CASES])
def test_bad_input_is_one_line_and_exit_code_2(answers, number):
  (code, error), (_, words) = answers[number], CASES[number]
  assert code == 2, error
  assert error.startswith("jaxnas: error: ") and error.count("\n") == 1, error
  for word in words:
    assert word in error
