"""The page and its few addresses, as a WSGI application.

There is no address that names a file: videos are asked for by a key of the list, assets by their exact names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from werkzeug.exceptions import BadRequest, ClientDisconnected, HTTPException, NotFound, RequestTimeout
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from cac_align.rating.answers import AnswerError
from cac_align.rating.guide import CONVENTIONS, DEFINITIONS
from cac_align.rating.security import LOOPBACK, MAX_BODY, add_strict_headers, check_request
from cac_align.rating.study import Study
from reward_model.schema import AnomalyType
from reward_model.strict_json import read_strictly

log = logging.getLogger(__name__)

ASSETS = {
    "report.css": "text/css",
    "rate.css": "text/css",
    "main.js": "text/javascript",
    "player.js": "text/javascript",
    "draft.js": "text/javascript",
    "saving.js": "text/javascript",
    "rating_panel.js": "text/javascript",
    "review_panel.js": "text/javascript",
    "results.js": "text/javascript",
    "dom.js": "text/javascript",
}
ROUTES = Map(
    [
        Rule("/", endpoint="page", methods=["GET"]),
        Rule("/assets/<name>", endpoint="asset", methods=["GET"]),
        Rule("/api/enter", endpoint="enter", methods=["POST"]),
        Rule("/api/answer", endpoint="answer", methods=["POST"]),
        Rule("/api/results", endpoint="results", methods=["POST"]),
        Rule("/api/export", endpoint="export", methods=["POST"]),
        Rule("/api/frames/<key>/<int:start>", endpoint="frames", methods=["GET"]),
    ]
)


class RatingApp:
    """A WSGI application over a study.

    Args:
        study: what is asked and answered.
        hosts: names under which the page is reached besides those of this machine's loopback.
    """

    def __init__(self, study: Study, hosts: Collection[str] = ()) -> None:
        self.study = study
        self.hosts = LOOPBACK | {h.strip("[]").lower() for h in hosts}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        request.max_content_length = MAX_BODY
        return add_strict_headers(self._answer(request))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        try:
            check_request(request, self.hosts)
            endpoint, values = ROUTES.bind_to_environ(request.environ).match()
            response: Response = getattr(self, f"on_{endpoint}")(request, **values)
            return response
        except HTTPException as error:
            return _json({"error": error.description}, error.code or 500)
        except ValueError as error:  # a rule of the study, of a video or of a file
            return _json({"error": str(error)}, 422)
        except OSError as error:
            log.error("not saved: %s", error)
            return _json({"error": f"it could not be written to disk: {error.strerror or error}"}, 507)

    def on_page(self, request: Request) -> Response:
        return Response(_page(self.study.mode), mimetype="text/html")

    def on_asset(self, request: Request, name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(f"no asset {name!r}")
        return Response(_asset(name), mimetype=ASSETS[name])

    def on_enter(self, request: Request) -> Response:
        return _json(self.study.enter(_body(request, "name")["name"]))

    def on_answer(self, request: Request) -> Response:
        data = _body(request, "person", "video", "answer")
        return _json(self.study.save(data["person"], data["video"], data["answer"]))

    def on_results(self, request: Request) -> Response:
        return _json(self.study.results(_body(request, "person")["person"]))

    def on_export(self, request: Request) -> Response:
        _body(request)
        root = self.study.root.resolve()
        return _json({"files": [path.relative_to(root).as_posix() for path in self.study.export()]})

    def on_frames(self, request: Request, key: str, start: int) -> Response:
        item = self.study.store.items.get(key)
        if item is None or start >= item.num_frames:
            raise NotFound("no such frame")
        return Response(self.study.frames.pack(item, start), mimetype="application/octet-stream")


def _body(request: Request, *names: str) -> dict[str, Any]:
    try:
        data = read_strictly(request.get_data().decode())
    except ClientDisconnected as error:
        raise RequestTimeout("the request did not arrive in time; send it again") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(data, dict) or set(data) != set(names):
        raise AnswerError(f"expected an object with {', '.join(names) or 'nothing'}")
    return data


def _json(data: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(data, allow_nan=False), status, mimetype="application/json")


@cache
def _asset(name: str) -> bytes:
    package = "cac_align.report" if name == "report.css" else "cac_align.rating"
    return (files(package) / "templates" / name).read_bytes()


@cache
def _page(mode: str) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_asset("page.html.j2").decode())
    return template.render(mode=mode, types=[(t.value, DEFINITIONS[t]) for t in AnomalyType], conventions=CONVENTIONS)
