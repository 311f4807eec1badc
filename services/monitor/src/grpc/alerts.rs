//! AlertService: the rules, evaluated now; their history comes later.

use proto::convert::to_timestamp;
use proto::wire;
use proto::wire::alert_service_server::AlertService;
use tonic::{Request, Response, Status};

use super::answers::as_of;
use super::{Answers, Stream, not_yet};
use crate::alerts::rule::{self, Alert, Severity};
use crate::fold::Folds;

#[tonic::async_trait]
impl AlertService for Answers {
    type StreamAlertsStream = Stream<wire::StreamAlertsResponse>;

    async fn check_alerts(
        &self,
        _: Request<wire::CheckAlertsRequest>,
    ) -> Result<Response<wire::CheckAlertsResponse>, Status> {
        let view = self.fresh.view().await;
        let alerts = rule::check(&view, self.per_worker_alerts);
        let rules = rule::rules(&view.settings, self.per_worker_alerts);
        Ok(Response::new(wire::CheckAlertsResponse {
            as_of: Some(as_of(&view)),
            alerts: alerts
                .into_iter()
                .map(|alert| to_wire(alert, &view))
                .collect(),
            rules: rules.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn list_alerts(
        &self,
        _: Request<wire::ListAlertsRequest>,
    ) -> Result<Response<wire::ListAlertsResponse>, Status> {
        Err(not_yet("ListAlerts", "ask CheckAlerts"))
    }

    async fn get_alert_history(
        &self,
        _: Request<wire::GetAlertHistoryRequest>,
    ) -> Result<Response<wire::GetAlertHistoryResponse>, Status> {
        Err(not_yet(
            "GetAlertHistory",
            "the service's log has a line for each change",
        ))
    }

    async fn stream_alerts(
        &self,
        _: Request<wire::StreamAlertsRequest>,
    ) -> Result<Response<Self::StreamAlertsStream>, Status> {
        Err(not_yet("StreamAlerts", "ask CheckAlerts"))
    }

    async fn acknowledge_alert(
        &self,
        _: Request<wire::AcknowledgeAlertRequest>,
    ) -> Result<Response<wire::AcknowledgeAlertResponse>, Status> {
        Err(not_yet("AcknowledgeAlert", "nothing was recorded"))
    }

    async fn test_alert_rule(
        &self,
        _: Request<wire::TestAlertRuleRequest>,
    ) -> Result<Response<wire::TestAlertRuleResponse>, Status> {
        Err(not_yet("TestAlertRule", "ask CheckAlerts for now"))
    }

    async fn create_silence(
        &self,
        _: Request<wire::CreateSilenceRequest>,
    ) -> Result<Response<wire::CreateSilenceResponse>, Status> {
        Err(not_yet("CreateSilence", "nothing was silenced"))
    }

    async fn list_silences(
        &self,
        _: Request<wire::ListSilencesRequest>,
    ) -> Result<Response<wire::ListSilencesResponse>, Status> {
        Err(not_yet("ListSilences", "there are no silences yet"))
    }

    async fn delete_silence(
        &self,
        _: Request<wire::DeleteSilenceRequest>,
    ) -> Result<Response<wire::DeleteSilenceResponse>, Status> {
        Err(not_yet("DeleteSilence", "there are no silences yet"))
    }
}

fn to_wire(alert: Alert, view: &Folds) -> wire::Alert {
    let severity = match alert.severity {
        Severity::Warning => wire::Severity::Warning,
        Severity::Critical => wire::Severity::Critical,
    };
    wire::Alert {
        r#type: alert.rule.to_owned(),
        severity: severity.into(),
        message: alert.message,
        value: alert.measured.map(|measured| measured.value),
        threshold: alert.measured.map(|measured| measured.threshold),
        unit: alert
            .measured
            .map(|measured| measured.unit.to_owned())
            .unwrap_or_default(),
        worker: alert.worker,
        issues: alert.issues,
        time: Some(to_timestamp(view.time())),
    }
}
