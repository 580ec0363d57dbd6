# The face service. Build: docker build -t coreface . ; run it with compose.yaml, which brings the database.
FROM python:3.11-slim
ARG PIP_ARGS=""
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY recipes recipes
COPY studies studies
RUN pip install --no-cache-dir $PIP_ARGS -c constraints.txt ".[serve,faces,postgres]" \
    && rm -rf /build \
    && useradd --system --uid 10001 --no-create-home coreface \
    && install -d -o coreface -g coreface -m 0700 /keys
WORKDIR /
USER coreface
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8300
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8300/readyz', timeout=4)"]
ENTRYPOINT ["coreface"]
CMD ["serve", "--help"]
