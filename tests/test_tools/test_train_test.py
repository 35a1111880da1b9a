# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import pytest


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
def test_train_then_test(task, config, script, tmp_path, capfd):
    path = config(task)
    script('tools/train.py').main([path])
    work_dir = tmp_path / 'work_dirs' / task
    assert (work_dir / 'epoch_1.pth').is_file()
    script('tools/test.py').main([path, str(work_dir / 'epoch_1.pth')])
