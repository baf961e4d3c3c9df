"""Which columns of a table are the users, the items, the times and the ratings. Nothing is imported but Python's own."""

import re

from recbole_diffusion.errors import UsageError, did_you_mean

REQUIRED = ("user", "item", "time")
ROLES = (*REQUIRED, "rating")
# Names in small letters without marks. A name of the first row wins over those of the second, which need to be alone.
_NAMES = {
    "user": (
        "user userid uid",
        "username customer customerid reviewer reviewerid visitor visitorid member memberid client clientid account "
        "accountid buyer buyerid player playerid reader readerid listener session sessionid usersha1 author authorid",
    ),
    "item": (
        "item itemid iid",
        "product productid movie movieid asin parentasin sku stockcode song songid track trackid artist artistid book "
        "bookid isbn article articleid news newsid game gameid business businessid venue venueid poi poiid location "
        "locationid video videoid anime animeid recipe recipeid beer beerid gmapid appid",
    ),
    "time": (
        "timestamp",
        "time date datetime unixreviewtime reviewtime ts unixtime unixtimestamp eventtime timestampms createdat "
        "invoicedate orderdate purchasedate datetimestamp",
    ),
    "rating": ("rating", "ratings score stars overall ratingscore reviewoverall bookrating"),
}
_NAMES = {role: [frozenset(row.split()) for row in rows] for role, rows in _NAMES.items()}
HOW_TO_NAME = {role: f"--{role}=COLUMN" for role in ROLES}


def bare_name(name):
    """A column's name in small letters without marks; of a header of atomic files without its type."""
    name = re.sub(r":(token|float|token_seq|float_seq)$", "", str(name))
    return re.sub(r"[\W_]", "", name.lower())


def is_called(name, role):
    """Whether a column has one of the names that columns of this role usually have."""
    return any(bare_name(name) in row for row in _NAMES[role])


def candidates(names, role):
    """The columns that may be of that role by their name, in their order; more than one is a doubt."""
    for row in _NAMES[role]:
        found = [name for name in names if bare_name(name) in row]
        if found:
            return found
    return []


def choose_columns(names, given, where, how_to_name=None):
    """Column of each role: the given ones, and where the names leave no doubt the others.

    Args:
        names (Sequence[str]): the columns that there are.
        given (dict): {role: column}, of roles in ``ROLES``.
        where (str): what has these columns, for messages.
        how_to_name (dict, optional): {role: what the user writes to name its column}, by default options of the
            command ``prepare``.

    Returns:
        dict: {role: column}; without a rating where there is none or a doubt.

    Raises:
        UsageError: for a given column that is not there, a column of two roles, and where a required one is in doubt.
    """
    names, how_to_name = list(names), how_to_name or HOW_TO_NAME
    chosen, shown = {}, ", ".join(map(str, names))
    for role, name in given.items():
        if name not in names:
            raise UsageError(f"{where} has no column '{name}'{did_you_mean(name, names)}, it has {shown}")
        chosen[role] = name
    free = [name for name in names if name not in chosen.values()]
    for role in ROLES:
        found = candidates(free, role) if role not in chosen else []
        if len(found) == 1:
            chosen[role] = found[0]
        elif role in REQUIRED and role not in chosen:
            reason = f"{' or '.join(map(str, found))} may be the {role}" if found else f"no column is surely the {role}"
            raise UsageError(f"{where}: {reason}, name it with {how_to_name[role]}; it has {shown}")
    if len(set(chosen.values())) < len(chosen):
        twice = next(name for name in chosen.values() if list(chosen.values()).count(name) > 1)
        raise UsageError(f"{where}: the column '{twice}' cannot be two things, name another column")
    return {role: chosen[role] for role in ROLES if role in chosen}


def describe_columns(chosen, given):
    """One line that says which columns are read, and which of them were guessed."""
    parts = [f"{role} '{name}'" + ("" if role in given else " (guessed)") for role, name in chosen.items()]
    return "columns: " + ", ".join(parts) + ("" if "rating" in chosen else ", no rating")


def swapped_by_name(user, item):
    """Why the columns seem to be swapped (str), None where their names do not say so."""
    if is_called(user, "item") and not is_called(user, "user"):
        return f"the users are to come from '{user}', which sounds like items"
    if is_called(item, "user") and not is_called(item, "item"):
        return f"the items are to come from '{item}', which sounds like users"
    return None
