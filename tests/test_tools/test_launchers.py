# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmxvit.datasets.shapes import write_dataset

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def call(tmp_path):
    """Run a launcher with ``python`` and ``srun`` that note their arguments.

    Returns exit status, arguments and error text.
    """
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name in ('python', 'srun'):
        program = programs / name
        program.write_text('#!/bin/sh\nfor a in "$0" "$@"; do '
                           'printf "%s\\n" "$a"; done\n')
        program.chmod(0o755)

    def run(script, *args, **env):
        path = f'{programs}{os.pathsep}{os.environ["PATH"]}'
        result = subprocess.run(
            ['bash', str(TOOLS / script), *args], capture_output=True,
            text=True, env=dict(os.environ, PATH=path, **env))
        words = [w.removeprefix(f'{programs}/')
                 for w in result.stdout.splitlines()]
        return result.returncode, words, result.stderr

    return run


def test_dist_train(call):
    status, words, _ = call('dist_train.sh', 'my config.py', '4', '--amp',
                            '--cfg-options', 'a=[1, 2]')
    assert status == 0
    assert words == [
        'python', '-m', 'torch.distributed.run', '--nnodes=1',
        '--node_rank=0', '--master_addr=127.0.0.1', '--master_port=29500',
        '--nproc_per_node=4', str(TOOLS / 'train.py'), 'my config.py',
        '--launcher', 'pytorch', '--amp', '--cfg-options', 'a=[1, 2]'
    ]


def test_two_processes(script):
    """A training of a shipped config by the launcher, as it is."""
    pytest.importorskip('mmdet')
    write_dataset('data', 'coco', train=4, val=2, size=64)
    toy_config = script('tools/dev/toy_config.py')
    cfg = toy_config.fit(
        Config.fromfile(TOOLS.parent / 'configs/xformer/'
                        'yolov3_xformer_8xb24-320-300e_coco.py'),
        Path('data'), size=64, batch_size=2, length=1)
    cfg.dump('config.py')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    programs = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    result = subprocess.run(
        ['bash', str(TOOLS / 'dist_train.sh'), 'config.py', '2'],
        capture_output=True, text=True,
        env=dict(os.environ, PATH=programs, PORT=port, OMP_NUM_THREADS='1'))
    assert result.returncode == 0, result.stderr[-3000:]
    said = result.stdout + result.stderr
    assert said.count('Distributed training: True') == 1  # by one of them
    assert 'GPU number: 2' in said
    assert Path('work_dirs/config/epoch_1.pth').exists()


def test_dist_test_on_several_machines(call):
    status, words, _ = call(
        'dist_test.sh', 'c.py', 'w.pth', '8', NNODES='2', NODE_RANK='1',
        MASTER_ADDR='node0', PORT='12345')
    assert status == 0
    assert words[3:] == [
        '--nnodes=2', '--node_rank=1', '--master_addr=node0',
        '--master_port=12345', '--nproc_per_node=8', str(TOOLS / 'test.py'),
        'c.py', 'w.pth', '--launcher', 'pytorch'
    ]


def test_slurm_train(call):
    status, words, _ = call(
        'slurm_train.sh', 'gpu', 'job 1', 'c.py', '--resume', GPUS='4',
        SRUN_ARGS='--quotatype=auto --time=60')
    assert status == 0
    assert words == [
        'srun', '--partition=gpu', '--job-name=job 1', '--gres=gpu:4',
        '--ntasks=4', '--ntasks-per-node=4', '--cpus-per-task=5',
        '--kill-on-bad-exit=1', '--quotatype=auto', '--time=60', 'python',
        '-u', str(TOOLS / 'train.py'), 'c.py', '--launcher', 'slurm',
        '--resume'
    ]


def test_slurm_test_with_defaults(call):
    status, words, _ = call('slurm_test.sh', 'gpu', 'job', 'c.py', 'w.pth',
                            '--tta')
    assert status == 0
    assert words[3:6] == ['--gres=gpu:8', '--ntasks=8', '--ntasks-per-node=8']
    assert words[-6:] == [
        str(TOOLS / 'test.py'), 'c.py', 'w.pth', '--launcher', 'slurm',
        '--tta'
    ]


@pytest.mark.parametrize('script', [
    'dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'
])
def test_too_few_arguments(call, script):
    status, words, error = call(script, 'one')
    assert status == 2 and not words
    assert error.startswith('usage: ') and 'CONFIG' in error
    assert os.access(TOOLS / script, os.X_OK)


def test_shellcheck():
    program = (shutil.which('shellcheck', path=Path(sys.executable).parent)
               or shutil.which('shellcheck'))
    if not program:
        pytest.skip('shellcheck is not installed')
    scripts = [*TOOLS.glob('*.sh'), TOOLS.parent / '.ci/run']
    assert len(scripts) == 5
    result = subprocess.run([program, *scripts], capture_output=True,
                            text=True)
    assert result.returncode == 0, result.stdout + result.stderr
