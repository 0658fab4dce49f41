"""The ClientApp: one round of training or evaluation on this site's own data file. Not for aggregating.

Whatever goes wrong is answered with one sentence that holds no data; the site's own log has the details of what was
unforeseen.
"""

from collections.abc import Callable
from logging import ERROR

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.common.constant import ErrorCode

from breast_cancer.arrays import Arrays, checked_arrays
from breast_cancer.budget import Budget, rdp_epsilon
from breast_cancer.errors import AppError, SettingsError, TableError
from breast_cancer.settings import RunConfig, SitePolicy
from breast_cancer.site import table_path
from breast_cancer.table import Table, read_table
from breast_cancer.training import Steps
from breast_cancer.training import measure as measure_model
from breast_cancer.training import train as train_model
from flowerbed_app import SdkError, SiteState

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train for one round and return the update with what it cost."""
    return _answer(msg, lambda: _train(msg, context))


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Measure the model on this site's held-out rows."""
    return _answer(msg, lambda: _evaluate(msg, context))


def _answer(msg: Message, work: Callable[[], RecordDict]) -> Message:
    try:
        return Message(work(), reply_to=msg)
    except (AppError, SdkError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - the text of a foreign exception may quote a patient's row
        log(ERROR, "The app failed at this site", exc_info=error)
        reason = "The app failed at this site; the site's own log says why."
    log(ERROR, reason)
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=msg)


def _train(msg: Message, context: Context) -> RecordDict:
    run, site = RunConfig.of(context.run_config), SitePolicy.of(context.node_config)
    arrays, server_round = _instruction(msg)
    rows = _table(site).train
    site.check(run, len(rows))
    # The order matters: what the round spends is on disk before the first gradient exists.
    charge = Budget(SiteState(context.run_id, context.node_id), run, site, rdp_epsilon).charge(server_round)
    steps = Steps(
        count=run.local_steps,
        sample_rate=run.sample_rate,
        learning_rate=run.learning_rate,
        max_grad_norm=run.max_grad_norm,
        noise_multiplier=run.noise_multiplier,
    )
    update = train_model(arrays, rows, steps)
    metrics = {"num-examples": len(rows), "epsilon": charge.epsilon, "delta": charge.delta}
    return _reply(site, metrics, update)


def _evaluate(msg: Message, context: Context) -> RecordDict:
    site = SitePolicy.of(context.node_config)
    if not site.share_evaluation:
        raise SettingsError("This site does not share evaluation metrics (share-evaluation is false).")
    arrays, _ = _instruction(msg)
    rows = _table(site).held_out
    if not len(rows):
        raise TableError("This site has no held-out rows to evaluate on.")
    measured = measure_model(arrays, rows)
    return _reply(site, {"num-examples": len(rows), "accuracy": measured.accuracy, "auc": measured.auc})


def _instruction(msg: Message) -> tuple[Arrays, int]:
    """Return the model and the round that the ServerApp sent."""
    record, config = msg.content.get("arrays"), msg.content.get("config")
    if not isinstance(record, ArrayRecord) or not isinstance(config, ConfigRecord):
        raise SettingsError("The ServerApp's message lacks 'arrays' or 'config'.")
    server_round = config.get("server-round")
    if not isinstance(server_round, int) or server_round < 1:
        raise SettingsError("The ServerApp's message lacks a 'server-round' from 1 on.")
    return checked_arrays(record), server_round


def _table(site: SitePolicy) -> Table:
    return read_table(table_path(site))


def _reply(site: SitePolicy, metrics: dict[str, int | float], update: Arrays | None = None) -> RecordDict:
    content = RecordDict(
        {
            "metrics": MetricRecord(dict(metrics)),
            "site": ConfigRecord({"organisation": site.organisation_name()}),
        }
    )
    if update is not None:
        content["arrays"] = ArrayRecord({name: Array(value) for name, value in update.items()})
    return content
