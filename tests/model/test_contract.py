"""Every registered model under the common contract."""

from models import CONTRACTS

globals().update({f"Test{model}": contract for model, contract in CONTRACTS.items()})
