"""What the tests of the interrupt share: which mechanism this interpreter has."""

from threadsafe_timeout._interruption import pursuit as _pursuit

MECHANISM = _pursuit.support().mechanism
