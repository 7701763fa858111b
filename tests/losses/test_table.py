import pytest

import cosent
from cosent import losses
from cosent.losses import LOSSES, loss_class


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_found_by_its_name_and_by_its_class(name):
    found = loss_class(name)
    assert found is loss_class(found.__name__) is getattr(losses, found.__name__) is getattr(cosent, found.__name__)
    assert found().data_formats


def test_other_names_are_no_losses():
    with pytest.raises(KeyError, match="NoLoss"):
        loss_class("NoLoss")
    with pytest.raises(AttributeError, match=r"'cosent\.losses' has no attribute 'infonce'"):
        losses.__getattr__("infonce")
