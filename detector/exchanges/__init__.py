"""Hash lists from elsewhere: clients of exchanges, and what keeps banks as new as the lists they come from."""
