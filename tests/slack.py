"""What tests grant to a machine that does much else, beside the times that the product promises."""

SLACK_SECONDS = 5.0
"""Added to a promised time. Who does not get a turn is late by so much at most; who hangs is later, or never comes."""
