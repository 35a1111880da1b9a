# Copyright (c) mmxvit contributors. Licensed under Apache-2.0.
import os.path as osp

from mmdet import datasets

from mmxvit.engine.check_annotations import box_is_outside
from mmxvit.engine.command import UserError
from mmxvit.registry import DATASETS

from .coco_panoptic import METAINFO, check_categories


@DATASETS.register_module()
class CocoPanopticDataset(datasets.CocoPanopticDataset):
    """mmdet's data set of this name that says what does not fit.

    mmdet's names neither file nor remedy where a segment is of a category
    that ``metainfo.classes`` lacks, and deals out wrong labels where the file
    lacks one of ``classes`` or lists stuff before things. It trains on boxes
    outside their image, and takes the name of the image for the PNG's, too;
    here things with such boxes are left out (``tools/train.py`` says so), and
    the PNG is the annotation's ``file_name``.

    Raises:
        UserError: One of this is so, or the file is damaged or of another
            format; names it.
    """

    def load_data_list(self) -> list[dict]:
        """As in mmdet, and check ``categories`` of the file."""
        try:
            data_list = super().load_data_list()
        except UserError:
            raise
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f'{self.ann_file}: is not in the panoptic format of COCO '
                f'({type(error).__name__}: {error}); name such a file in '
                'ann_file of this data set in the config, or write it again'
            ) from error
        if not data_list:
            raise UserError(f'{self.ann_file}: has no `images`; name another '
                            'file in ann_file of this data set in the config')
        del self._pngs  # would go to every worker
        known = [self._categories[i] for i in self.cat_ids]
        if any('isthing' not in category for category in known):
            raise UserError(
                f'{self.ann_file}: `categories` has no `isthing`, 1 for '
                'things and 0 for stuff; name a panoptic file in ann_file of '
                'this data set in the config, or add it')
        names = [category['name'] for category in known]
        absent = [c for c in self.metainfo['classes'] if c not in names]
        if absent:
            raise UserError(
                f'{self.ann_file}: has no categories {", ".join(absent[:5])}'
                f'{", ..." * (len(absent) > 5)}, which are `classes` of the '
                f'config: {METAINFO}')
        things = [bool(category['isthing']) for category in known]
        if things != sorted(things, reverse=True):
            raise UserError(
                f'{self.ann_file}: `categories` has '
                f'{names[things.index(False)]}, which is stuff, before '
                'things, but the heads take the first labels for things: '
                'list all things first, in the file and in metainfo.classes')
        ordered = [n for n in names if n in self.metainfo['classes']]
        if ordered != list(self.metainfo['classes']):
            raise UserError(
                f'{self.ann_file}: lists its categories in another order than '
                f'`classes` of the config, and mmdet numbers the classes by '
                f'it: {", ".join(ordered[:5])}'
                f'{", ..." * (len(ordered) > 5)}. {METAINFO}')
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """As in mmdet; categories of segments must be known."""
        if not hasattr(self, '_pngs'):
            self._categories = self.coco.cats
            self._pngs = {a['image_id']: a['file_name'] for a in
                          self.coco.dataset.get('annotations', ())}
        image = raw_data_info['raw_img_info']
        segments = raw_data_info['raw_ann_info'] or []
        image_id = image['img_id']
        check_categories(self.ann_file, image_id, segments, self._categories,
                         self.cat2label)
        ids = [s['id'] for s in segments]
        if len(set(ids)) < len(ids):
            raise UserError(
                f'{self.ann_file}: segments_info of image_id {image_id} lists '
                'an id several times: give each segment its own')
        inside = [
            s for s in segments
            if not (self._categories[s['category_id']].get('isthing')
                    and box_is_outside(s['bbox'], image))
        ]
        data_info = super().parse_data_info(
            dict(raw_data_info, raw_ann_info=inside))
        if data_info['seg_map_path'] and image_id in self._pngs:
            data_info['seg_map_path'] = osp.join(
                self.data_prefix['seg'], self._pngs[image_id])
        kept = {s['id'] for s in data_info['segments_info']}
        # outside, without area, or less than a pixel wide
        unused = [s for s in segments if s['id'] not in kept]
        if unused:
            data_info['unused_segments'] = unused
        return data_info
