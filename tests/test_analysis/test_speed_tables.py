# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import csv

from mmxvit.analysis.speed_tables import slower_than_peers, speed_tables

SETTINGS = dict(
    batch=1, steps=20, peak_live_mib='', mode='infer', dtype='float32',
    device='cpu', threads=2, fuse=False, channels_last=False, compile=False,
    allocator='tuned', device_name='A CPU', cpu_count=4, torch='2.8.0',
    commit='commit 1234567', date='2026-01-02T03:04:05+0000')


def table(path, rows):
    """Tables of a file with rows (model, side, ms, settings)."""
    rows = [
        dict(SETTINGS, model=model, height=side, width=side, median_ms=ms,
             **other) for model, side, ms, other in rows
    ]
    with open(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return speed_tables([path]).split('\n')


def test_ratio_is_to_the_peer(tmp_path):
    lines = table(tmp_path / 'a.csv', [
        ('LVT', 224, 6.0, {}), ('PVTv2-B0', 224, 4.0, {}),
        ('XFormer', 224, 5.0, {}),
        ('LVT', 512, 'out of memory', {}), ('PVTv2-B0', 512, 20.0, {})])
    assert '| LVT | 6 (1.50) | out of memory |' in lines
    assert '| PVTv2-B0 | 4 | 20 |' in lines
    assert '| XFormer | 5 | - |' in lines  # its peer was not measured
    assert 'A CPU (4 CPUs), 2 threads' in lines[0]
    assert '2026-01-02, commit 1234567' in lines[0]


def test_settings_have_tables_of_their_own(tmp_path):
    fused = dict(fuse=True, device='cuda', device_name='A GPU', batch=64)
    lines = table(tmp_path / 'a.csv', [
        ('LVT', 224, 6.0, {}), ('LVT', 224, 3.0, fused)])
    heads = [line for line in lines if line.startswith('**')]
    assert len(heads) == 2
    assert 'fuse' not in heads[0]
    assert 'batch 64' in heads[1] and 'mmxvit.fuse' in heads[1]
    assert 'A GPU, torch' in heads[1]


def test_what_is_slower_than_its_peer(tmp_path):
    path = tmp_path / 'a.csv'
    table(path, [
        ('LVT', 224, 6.0, {}), ('PVTv2-B0', 224, 4.0, {}),
        ('LVT', 512, 21.0, {}), ('PVTv2-B0', 512, 20.0, {}),
        ('LVT', 1024, 20.9, {}), ('PVTv2-B0', 1024, 20.0, {}),
        ('XFormer', 224, 4.0, {}), ('MobileViT-S', 224, 'out of memory', {}),
        ('LVT', 224, 1., dict(batch=8)), ('PVTv2-B0', 224, 4., dict(batch=8))])
    assert slower_than_peers([path]) == (
        '* Inference, batch 1, float32, A CPU: LVT 1.50 at 224, 1.05 at 512.')
    assert table(path, [('LVT', 224, 1234.5, {})])[-1] == '| LVT | 1,234 |'
    assert slower_than_peers([path]) == '* Nothing.'


def test_growth_over_many_sizes(tmp_path):
    sides = (256, 320, 448, 512, 1024)
    lines = table(tmp_path / 'a.csv', [
        ('LVT', side, side**2 * (1.5 if side == 1024 else 1), {})
        for side in sides])
    assert '256 to 1024' in lines[2]
    assert lines[4].endswith('| 1.50 |')  # 1.5 times as fast as the pixels


def test_runtimes_have_tables_of_their_own(tmp_path):
    lines = table(tmp_path / 'a.csv', [
        ('LVT', 224, 6.0, dict(runtime=runtime))
        for runtime in ('torch', 'onnxruntime', 'openvino')])
    heads = [line for line in lines if line.startswith('**')]
    assert len(heads) == 3
    assert 'in torch beside the next two**' in heads[0]
    assert 'in ONNX Runtime**' in heads[1]
    assert 'in OpenVINO**' in heads[2]
