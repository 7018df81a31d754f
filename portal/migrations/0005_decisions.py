import django.utils.timezone
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("portal", "0004_refusals")]

    operations = [
        migrations.CreateModel(
            name="RevokedHash",
            fields=[
                ("hash", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("revoked_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="StaffDecision",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer_name", models.CharField(max_length=63)),
                ("tunnel_name", models.CharField(max_length=63)),
                ("enabled", models.BooleanField()),
                ("max_sessions", models.PositiveIntegerField()),
                ("max_streams", models.PositiveIntegerField()),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=["customer_name", "tunnel_name"], name="staff_decision_is_unique"),
                    models.CheckConstraint(
                        condition=Q(max_sessions__gte=1, max_streams__gte=1), name="staff_decision_limits_are_positive"
                    ),
                ],
            },
        ),
        migrations.AddField(
            model_name="tunnelstatus",
            name="resource_uid",
            field=models.CharField(blank=True, max_length=64),
        ),
    ]
