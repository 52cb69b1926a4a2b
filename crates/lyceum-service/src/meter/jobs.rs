//! Jobs that a key pays for. Their money is the store's matter from their first moment to their end
//! ([`lyceum_store::ledger::bills`]): no purse of a process holds it.

use super::ledger::exhausted;
use super::{Counts, Ledger, Payer};
use crate::ServiceError;
use lyceum_store::ledger::NewBill;
use lyceum_store::{StoreError, jobs};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};

impl Payer {
    /// The bill of a job that is at most `most`, at the price of this version of a model (0: of none); None: nobody pays.
    pub(crate) fn bill_of_job(&self, (model, model_version): (&str, u32), most: Counts) -> Option<NewBill> {
        self.bill.as_ref().map(|bill| NewBill {
            api_key: bill.key.as_str().to_owned(),
            route: bill.route.clone(),
            model: model.to_owned(),
            model_version,
            most,
        })
    }
}

impl Ledger {
    /// Puts a job into the queue, with what it can cost at most put aside.
    ///
    /// # Errors
    /// A budget that covers the payer has not so much left, also when this process holds none of it for later.
    pub(crate) async fn queue(
        &self,
        project: &Project,
        id: &JobId,
        new: jobs::NewJob,
    ) -> Result<(), ServiceError> {
        let create = || jobs::create_as(&self.store, project, id, new.clone(), Timestamp::now());
        match self.with_all_money(create).await? {
            Err(StoreError::BudgetExhausted(budget)) => {
                let message = exhausted(&budget, "this job", "Ask for less (epochs, examples, minutes)");
                Err(ServiceError::BudgetExhausted { message })
            }
            created => Ok(created?),
        }
    }

    /// Lets a paused job go on, with what it may still cost put aside again.
    ///
    /// # Errors
    /// As [`queue`](Self::queue). What else the store refuses is the inner error.
    pub(crate) async fn resume(
        &self,
        project: &Project,
        id: &JobId,
    ) -> Result<Result<(), StoreError>, ServiceError> {
        let resume = || async { jobs::resume(&self.store, project, id, Timestamp::now()).await.map(drop) };
        match self.with_all_money(resume).await? {
            Err(StoreError::BudgetExhausted(budget)) => {
                let message = exhausted(&budget, "the rest of this job", "Cancel it");
                Err(ServiceError::BudgetExhausted { message })
            }
            resumed => Ok(resumed),
        }
    }

    /// Does what needs money; once more, when this process holds none for later, where that was not enough.
    async fn with_all_money<F: Future<Output = Result<(), StoreError>>>(
        &self,
        act: impl Fn() -> F,
    ) -> Result<Result<(), StoreError>, ServiceError> {
        let mut done = act().await;
        if let Err(StoreError::BudgetExhausted(_)) = done {
            let idle = self.state().desk.give_back(|_| true);
            self.give_back(idle).await?;
            done = act().await;
        }
        Ok(done)
    }
}
