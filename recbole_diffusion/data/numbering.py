"""RecBole's numbering of tokens in the order of their first appearance, by columns that hold each name once."""

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from recbole.utils import FeatureType


class ArrayNumbering:
    """The numbering part of a data set, to be mixed in before RecBole's class. Every token gets RecBole's number."""

    def _remap(self, remap_list):
        """Number the columns that share their tokens, one after the other: list of (frame, field, FeatureType)."""
        if not remap_list:
            return
        columns = [as_categories(feat[field], kind) for feat, field, kind in remap_list]
        everything = columns[0] if len(columns) == 1 else union_categoricals(columns)
        numbers, names = pd.factorize(everything)
        numbers += 1  # 0 is padding, and what is missing
        tokens = np.array(["[PAD]", *names.categories.to_numpy()[names.codes]])
        number_of = dict(zip(tokens.tolist(), range(len(tokens))))
        ends = np.cumsum([len(column) for column in columns])
        for (feat, field, kind), own in zip(remap_list, np.split(numbers, ends[:-1])):
            if field not in self.field2id_token:
                self.field2id_token[field], self.field2token_id[field] = tokens, number_of
            if kind == FeatureType.TOKEN:
                feat[field] = own
            elif kind == FeatureType.TOKEN_SEQ:
                feat[field] = np.split(own, np.cumsum(feat[field].agg(len))[:-1])


def as_categories(column, kind):
    """Tokens of a column, those of lists one after the other, as categories of text (pandas.Categorical)."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.array
    values = column.agg(np.concatenate) if kind == FeatureType.TOKEN_SEQ else column.to_numpy()
    codes, names = pd.factorize(np.asarray(values, dtype=object))
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))
