"""Objects that travel with their message between the kit's SuperLink, its SuperNodes and its tasks; imports no kit code."""
