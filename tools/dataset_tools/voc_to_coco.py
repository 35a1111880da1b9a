# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
"""Convert the boxes of a Pascal VOC folder to COCO's JSON format.

SRC has Annotations/*.xml, JPEGImages/* and ImageSets/Main/<split>.txt. One
DST/instances_<split>.json is written for each split; images stay where they
are.  mmdet's own converter knows the 20 classes of VOC only.
"""
import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from mmxvit.utils.allocator import tune_allocator


def read_image(root: Path, name: str) -> tuple[dict, list[tuple[str, dict]]]:
    """One image: its COCO entry, and (class name, annotation) pairs.

    Boxes are (xmin, ymin, xmax - xmin, ymax - ymin) as they stand in the file.

    Raises:
        SystemExit: The annotation or the image is missing or has no size.
    """
    path = root / 'Annotations' / f'{name}.xml'
    if not path.is_file():
        sys.exit(f'error: {path}: no such annotation, though the split names '
                 f'{name}')
    tree = ElementTree.parse(path).getroot()
    images = sorted((root / 'JPEGImages').glob(f'{name}.*'))
    if not images:
        sys.exit(f'error: {root}/JPEGImages has no image {name}.*')
    size = tree.find('size')
    if size is None:
        sys.exit(f'error: {path}: has no <size>')
    image = dict(
        file_name=images[0].name,
        width=int(size.findtext('width')),
        height=int(size.findtext('height')))
    objects = []
    for item in tree.iter('object'):
        x1, y1, x2, y2 = (
            float(item.findtext(f'bndbox/{key}'))
            for key in ('xmin', 'ymin', 'xmax', 'ymax'))
        objects.append((item.findtext('name'),
                        dict(
                            bbox=[x1, y1, x2 - x1, y2 - y1],
                            area=(x2 - x1) * (y2 - y1),
                            iscrowd=0,
                            ignore=int(item.findtext('difficult') or 0))))
    return image, objects


def convert(root: Path, split: str, classes: Sequence[str]) -> dict:
    """COCO annotation of one split; category ids count from 1.

    Raises:
        SystemExit: An object is of a class that is not in ``classes``.
    """
    names = (root / 'ImageSets/Main' / f'{split}.txt').read_text().split()
    images, annotations = [], []
    for image_id, name in enumerate(names):
        image, objects = read_image(root, name)
        images.append(dict(id=image_id, **image))
        for label, annotation in objects:
            if label not in classes:
                sys.exit(f'error: {name}.xml has an object {label!r}; '
                         f'--classes are {", ".join(classes)}')
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=1 + list(classes).index(label),
                    **annotation))
    categories = [dict(id=i, name=n) for i, n in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, help='VOC folder')
    parser.add_argument('dst', type=Path, help='folder for the JSON files')
    parser.add_argument('--classes', nargs='+', required=True)
    parser.add_argument(
        '--splits', nargs='+', default=['train', 'val', 'test'])
    args = parser.parse_args(argv)
    targets = {s: args.dst / f'instances_{s}.json' for s in args.splits}
    for split, target in targets.items():
        listed = args.src / 'ImageSets/Main' / f'{split}.txt'
        if not listed.is_file():
            sys.exit(f'error: {listed}: no such split; choose by --splits')
        if target.exists():
            sys.exit(f'error: {target} exists already; remove it or choose '
                     'another folder')
    args.dst.mkdir(parents=True, exist_ok=True)
    for split, target in targets.items():
        coco = convert(args.src, split, args.classes)
        target.write_text(json.dumps(coco))
        print(f'{target}: {len(coco["images"])} images, '
              f'{len(coco["annotations"])} boxes')


if __name__ == '__main__':
    main()
