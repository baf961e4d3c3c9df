"""What users meet after the training part, for settings that reproduce a leak."""

import torch


def later_items(train_data):
    """Targets of the evaluation parts by user.

    Args:
        train_data (SequenceDataset): a training part that knows its ``evaluation_parts``.

    Returns:
        torch.LongTensor: [users, most of a user], zeros where a user has fewer.
    """
    parts, user_field = train_data.evaluation_parts, train_data.uid_field
    users = torch.cat([part.inter_feat[user_field] for part in parts])
    items = torch.cat([part.inter_feat[train_data.iid_field] for part in parts])
    order = users.argsort(stable=True)
    users, items = users[order], items[order]
    count = torch.bincount(users, minlength=train_data.num(user_field))
    place = torch.arange(len(users)) - (count.cumsum(0) - count)[users]
    return items.new_zeros(len(count), int(count.max())).index_put((users, place), items)
