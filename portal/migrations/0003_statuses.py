"""Give the rows that are there already a status, with work to do."""

from typing import Any

from django.db import migrations


def create_statuses(apps: Any, schema_editor: Any) -> None:
    for name in ("customer", "tunnel"):
        rows, statuses = apps.get_model("portal", name), apps.get_model("portal", f"{name}status")
        ids = rows.objects.values_list("pk", flat=True)
        statuses.objects.bulk_create((statuses(**{f"{name}_id": pk}) for pk in ids), batch_size=1000)


class Migration(migrations.Migration):
    dependencies = [("portal", "0002_cluster")]
    operations = [migrations.RunPython(create_statuses, migrations.RunPython.noop)]
