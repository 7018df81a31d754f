# Two images, and no compiler, package manager of Python or cache in either:
#
#   moorline   every role of the provider's side: portal, gateway, worker, beat, watch and the migration. Each role is a
#              command; without one the container lists them. The work directory is /app.
#   client     what a customer runs, `moorline client`, with the six packages that it needs and what these need.
#
# Both run as user 65532 with a root file system that may be read-only; /tmp is what a role may write to. The base is the
# official slim Python image, or any other that has Python 3.11 or newer with venv:
#
#   docker build --target moorline --tag moorline:dev .
#   docker build --target client --tag moorline-client:dev .
#   docker build --build-arg BASE=registry.example.com/python:3.11 --target moorline --tag moorline:dev .

ARG BASE=docker.io/library/python:3.11-slim

# pip installs into environments that have none themselves; --only-binary: what has no wheel fails instead of compiling.
FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/venv
WORKDIR /app
COPY requirements.txt pyproject.toml ./
# The `moorline` command, run from /app in both images.
RUN printf '%s\n' '#!/opt/venv/bin/python' 'from tunnels.cli.main import main' '' 'main()' >/opt/venv/bin/moorline \
    && chmod 755 /opt/venv/bin/moorline

FROM tools AS build-client
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        >/opt/tools/client.txt \
    && /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --only-binary :all: \
        --constraint requirements.txt --requirement /opt/tools/client.txt \
    && rm requirements.txt pyproject.toml
COPY tunnels tunnels
# Nothing writes byte code later: a read-only root could not keep it, and every start would compile all again.
RUN python3 -m compileall -q .

FROM tools AS build-moorline
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --only-binary :all: --requirement requirements.txt \
    && rm requirements.txt pyproject.toml
COPY manage.py ./
COPY tunnels tunnels
COPY portal portal
RUN python3 -m compileall -q . && printf '%s\n' \
        'Moorline: name a role as the command.' \
        '' \
        '  portal     python manage.py serve --role portal --bind 0.0.0.0' \
        '  gateway    python manage.py serve --role gateway --bind 0.0.0.0' \
        '  worker     celery --app portal.config.celery worker --without-gossip --without-mingle' \
        '  beat       celery --app portal.config.celery beat --schedule /tmp/beat' \
        '  watch      python manage.py watch' \
        '  migration  python manage.py migrate --no-input' \
        '  customer   moorline client' \
        >roles.txt

# 65532 is the user that images without a shell have agreed on as nobody in particular. It is in no list of users, nor is one
# that a cluster chooses; LOGNAME answers whoever asks for the name.
FROM ${BASE} AS client
LABEL org.opencontainers.image.title="Moorline client" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/app LOGNAME=moorline \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY LICENSE /app/
COPY --from=build-client /opt/venv /opt/venv
COPY --from=build-client /app /app
WORKDIR /app
USER 65532:65532
ENTRYPOINT ["moorline", "client"]

FROM ${BASE} AS moorline
LABEL org.opencontainers.image.title="Moorline" org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONPATH=/app LOGNAME=moorline \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY LICENSE /app/
COPY --from=build-moorline /opt/venv /opt/venv
COPY --from=build-moorline /app /app
WORKDIR /app
USER 65532:65532
EXPOSE 8000
CMD ["cat", "/app/roles.txt"]
