from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("portal", "0003_statuses")]

    operations = [
        migrations.AddField(
            model_name="tunnelstatus",
            name="resource_generation",
            field=models.PositiveBigIntegerField(default=0),
        ),
        migrations.AddField(model_name="tunnelstatus", name="refusal", field=models.JSONField(default=dict)),
    ]
