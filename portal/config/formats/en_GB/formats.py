# Sortable, 24 hours, and with the time zone.
DATETIME_FORMAT = "Y-m-d H:i e"
